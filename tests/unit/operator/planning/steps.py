"""Steps that bring a simulated cluster somewhere, and what its model says then."""

from __future__ import annotations

from shardedmodel_operator.planning.settings import PlanSettings
from tests.builders.operator import SETTINGS, ModelBuilder, group_report, summary
from tests.simulated_cluster import SimulatedCluster


def sharded(
    builder: ModelBuilder | None = None, settings: PlanSettings = SETTINGS
) -> SimulatedCluster:
    """A model whose layout is there and whose groups were made."""
    cluster = SimulatedCluster(builder or ModelBuilder(), settings=settings)
    cluster.settle()
    cluster.end_job("Complete", 0, summary().to_json())
    cluster.settle()
    return cluster


def ready(builder: ModelBuilder | None = None) -> SimulatedCluster:
    """A model that is Ready."""
    cluster = sharded(builder)
    for name in cluster.names("StatefulSet"):
        cluster.run_ranks(name)
        cluster.reports[name] = group_report(name)
    cluster.settle()
    return cluster


def change(cluster: SimulatedCluster, **workers: object) -> None:
    """Change the pods that the spec asks for."""
    cluster.builder.with_workers(**workers).at_generation(cluster.model.generation + 1)


def reason(cluster: SimulatedCluster, kind: str = "Ready") -> str:
    """The reason of a condition."""
    condition = cluster.model.status.condition(kind)
    assert condition is not None
    return condition.reason


def message(cluster: SimulatedCluster, kind: str = "Ready") -> str:
    """The message of a condition."""
    condition = cluster.model.status.condition(kind)
    assert condition is not None
    return condition.message


def event_reasons(cluster: SimulatedCluster) -> list[str]:
    """Reasons of all Events so far."""
    return [event.reason for event in cluster.events]
