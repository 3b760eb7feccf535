"""What the operator counts; ``docs/operating.md`` lists the names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.reconciling.exposition import Histogram, Sample, family, histogram
from shardedmodel_operator.reconciling.phases import Phases
from shardedmodel_operator.reconciling.queue import WorkQueue
from shardedmodel_operator.reconciling.watches import Watches

RECONCILE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: milliseconds without a call to the API server, 30 s when it does not answer."""


class Metrics:
    """Counts reconciliations and tells the state of all parts; read from the server's threads."""

    def __init__(
        self,
        cluster: Cluster,
        queue: WorkQueue,
        watches: Watches,
        phases: Phases,
        leads: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._queue = queue
        self._watches = watches
        self._phases = phases
        self._leads = leads
        self._reconciles: Counter[str] = Counter(success=0, error=0)
        self._errors: Counter[str] = Counter()
        self._seconds = Histogram(RECONCILE_BUCKETS)

    def reconciled(self, seconds: float, error: str = "") -> None:
        """Count one reconciliation.

        Args:
            seconds: what it took.
            error: reason of its failure; empty when it succeeded.
        """
        result = "error" if error else "success"
        self._seconds.observe(seconds, result)
        self._reconciles[result] += 1
        if error:
            self._errors[error] += 1

    def render(self) -> str:
        """The text of ``/metrics``."""
        return "".join([*self._work(), *self._connection(), *self._models()])

    def _work(self) -> Iterable[str]:
        yield family(
            "leader", "gauge", "1 while this operator is the one that acts.", [({}, self._leads())]
        )
        yield family(
            "reconciles_total", "counter", "Reconciliations.", _by("result", self._reconciles)
        )
        yield family("errors_total", "counter", "Failures by reason.", _by("reason", self._errors))
        yield histogram(
            "reconcile_seconds", "Duration of reconciliations.", "result", self._seconds
        )
        depth, age = self._queue.depth(), self._queue.oldest_age()
        yield family("queue_depth", "gauge", "Models that wait for a worker.", [({}, depth)])
        yield family(
            "queue_age_seconds",
            "gauge",
            "Seconds that the longest waiting model waits.",
            [({}, age)],
        )

    def _connection(self) -> Iterable[str]:
        # A copy: calls are counted in other threads.
        calls = sorted(dict(self._cluster.calls).items())
        yield family(
            "api_calls_total",
            "counter",
            "Calls to the API server.",
            [(call._asdict(), count) for call, count in calls],
        )
        yield family(
            "watch_age_seconds",
            "gauge",
            "Seconds since a watch last gave a sign.",
            [({"resource": name}, age) for name, age in sorted(self._watches.ages().items())],
        )

    def _models(self) -> Iterable[str]:
        states = sorted(self._phases.states().items())
        names = {key: {"model_namespace": key.namespace, "model": key.name} for key, _ in states}
        yield family(
            "model_phase",
            "gauge",
            "1 for the phase that a model is in.",
            [(names[key] | {"phase": state.phase}, 1) for key, state in states],
        )
        yield family(
            "model_stalled",
            "gauge",
            "1 for a model that cannot go on by itself.",
            [(names[key] | {"reason": state.stalled}, 1) for key, state in states if state.stalled],
        )
        yield family(
            "model_ranks_missing",
            "gauge",
            "Ranks of a model that are not ready.",
            [(names[key], state.missing) for key, state in states],
        )
        yield histogram(
            "phase_seconds",
            "How long models were in a phase that they left.",
            "phase",
            self._phases.seconds,
        )


def _by(label: str, values: Counter[str]) -> list[Sample]:
    # A copy: the counters grow in other threads.
    return [({label: key}, count) for key, count in sorted(dict(values).items())]
