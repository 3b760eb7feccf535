"""What ``benchmarks.scale`` reads, so that its zeros are zeros of what was counted."""

from __future__ import annotations

from collections import Counter

from benchmarks.scale.readings import operator_calls, own_calls, server_writes, spread
from shardedmodel_operator.cluster.calls import ApiCall
from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.reconciling.queue import WorkQueue
from tests.unit.operator.reconciling.builders import metrics


def test_the_operators_own_count_is_read_by_verb_and_resource() -> None:
    cluster = Cluster(None)
    cluster.calls[ApiCall("patch", "shardedmodels/status", "200")] += 3
    cluster.calls[ApiCall("patch", "shardedmodels/status", "409")] += 1
    cluster.calls[ApiCall("list", "pods", "200")] += 2
    text = metrics(WorkQueue(lambda: 0.0), cluster).render()
    assert operator_calls(text) == {"patch shardedmodels/status": 4, "list pods": 2}


def test_calls_for_models_are_neither_lists_nor_watches_nor_the_lease() -> None:
    calls = Counter({"list pods": 2, "watch jobs": 1, "update leases": 9, "create events": 6})
    assert own_calls(calls) == {"create events": 6}


def test_the_servers_count_is_of_writes_of_the_operators_kinds_by_anybody() -> None:
    lines = [
        'apiserver_request_total{code="200",resource="pods",subresource="status",verb="PATCH"} 5',
        'apiserver_request_total{code="201",resource="shardedmodels",verb="POST"} 2',
        'apiserver_request_total{code="200",resource="pods",verb="LIST"} 7',
        'apiserver_request_total{code="200",resource="leases",verb="PUT"} 11',
    ]
    assert server_writes("\n".join(lines)) == 7


def test_a_spread_tells_of_the_slow_ones() -> None:
    found = spread([1.0] * 98 + [2.0, 3.0])
    assert (found["n"], found["median"], found["most"]) == (100, 1.0, 3.0)
    assert 1.0 < found["p99"] <= 3.0
