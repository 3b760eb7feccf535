"""The parts that metrics, handlers and workers are made of, on a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.reconciling.metrics import Metrics
from shardedmodel_operator.reconciling.phases import Phases
from shardedmodel_operator.reconciling.queue import WorkQueue
from shardedmodel_operator.reconciling.watches import Watches


class Clock:
    """Seconds that move only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watches(*namespaces: str, clock: Callable[[], float] = lambda: 0.0) -> Watches:
    return Watches(namespaces, Cluster(None).calls, clock)


def phases(clock: Callable[[], float] = lambda: 0.0, leads: bool = True) -> Phases:
    return Phases(clock, lambda: leads)


def metrics(
    queue: WorkQueue,
    cluster: Cluster | None = None,
    seen: Phases | None = None,
    namespaces: Sequence[str] = (),
) -> Metrics:
    return Metrics(
        cluster or Cluster(None), queue, watches(*namespaces), seen or phases(), lambda: True
    )
