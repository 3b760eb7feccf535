"""Crashes on the real cluster: what dies, in the middle of what, and whether the end is the same.

``make crash-matrix`` goes through two tables. In the first the operator is killed at each of its
calls to the API server, which a proxy between the two counts (``calls``, ``executioner``); in the
second something else dies in each phase of a model's life (``faults``). Every cell ends when the
cluster holds what an undisturbed life holds at that point (``states``), or fails.

A life (``lives``) goes through ``steps`` in a namespace of its own, with an operator, an S3 server
and proxies of its own (``lane``), so that several can go on side by side on one cluster.
"""
