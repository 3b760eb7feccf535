"""Measure the operator on an API server alone: a thousand models, with pods that are only told of.

Run with ``python -m benchmarks.scale``, or ``make scale``. etcd, the API server and the operator
are real, the operator as the chart would run it; what a kubelet and the controllers of Jobs and
StatefulSets would do is done by ``paper``.
"""
