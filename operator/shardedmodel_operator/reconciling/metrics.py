"""What the operator counts, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.reconciling.queue import WorkQueue

PREFIX = "shardedmodel_operator_"


class Metrics:
    """Counts reconciliations and tells the state of the queue; read from the server's threads."""

    def __init__(self, cluster: Cluster, queue: WorkQueue) -> None:
        self._cluster = cluster
        self._queue = queue
        self._reconciles: Counter[str] = Counter(success=0, error=0)
        self._errors: Counter[str] = Counter()
        self._seconds = 0.0

    def reconciled(self, seconds: float, error: str = "") -> None:
        """Count one reconciliation.

        Args:
            seconds: what it took.
            error: reason of its failure; empty when it succeeded.
        """
        self._seconds += seconds
        self._reconciles["error" if error else "success"] += 1
        if error:
            self._errors[error] += 1

    def render(self) -> str:
        """The text of ``/metrics``."""
        lines = [
            *_family("reconciles_total", "counter", "Reconciliations.", "result", self._reconciles),
            *_family("errors_total", "counter", "Failures by reason.", "reason", self._errors),
            *_family(
                "api_calls_total", "counter", "API calls by verb.", "verb", self._cluster.calls
            ),
            *_single(
                "reconcile_seconds_total", "counter", "Seconds of reconciling.", self._seconds
            ),
            *_single("queue_depth", "gauge", "Models that wait for a worker.", self._queue.depth()),
            *_single(
                "queue_age_seconds",
                "gauge",
                "Seconds that the longest waiting model waits.",
                self._queue.oldest_age(),
            ),
        ]
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, label: str, values: Mapping[str, float]) -> list[str]:
    head = [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {kind}"]
    # A copy: the counters grow in other threads.
    rows = sorted(dict(values).items())
    return head + [f'{PREFIX}{name}{{{label}="{key}"}} {value:g}' for key, value in rows]


def _single(name: str, kind: str, text: str, value: float) -> list[str]:
    return [
        f"# HELP {PREFIX}{name} {text}",
        f"# TYPE {PREFIX}{name} {kind}",
        f"{PREFIX}{name} {value:g}",
    ]
