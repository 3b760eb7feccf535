from __future__ import annotations

import asyncio

from shardedmodel_operator.cluster.cache import Key
from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.reconciling.metrics import Metrics
from shardedmodel_operator.reconciling.queue import WorkQueue


def rendered() -> str:
    queue = WorkQueue(lambda: 0.0)
    asyncio.run(queue.add(Key("n", "a")))
    cluster = Cluster(None)
    cluster.calls["patch"] += 3
    return Metrics(cluster, queue).render()


def test_api_calls_are_told_by_verb() -> None:
    assert 'shardedmodel_operator_api_calls_total{verb="patch"} 3' in rendered()


def test_the_queue_is_told() -> None:
    assert "shardedmodel_operator_queue_depth 1" in rendered()
    assert "shardedmodel_operator_queue_age_seconds 0" in rendered()


def test_results_are_there_before_the_first_of_them() -> None:
    assert 'reconciles_total{result="error"} 0' in rendered()


def test_every_sample_has_help_and_type() -> None:
    lines = rendered().splitlines()
    names = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    for name in names:
        assert any(line.startswith(f"# HELP {name} ") for line in lines)
        assert any(line.startswith(f"# TYPE {name} ") for line in lines)
