"""What one load took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What one load took.

    Args:
        bytes: of the rank's objects.
        bytes_read: fetched from the store for them, repeats included; what came from the node's
            cache is not among them.
        retries: requests and blocks that were repeated.
        throttled: answers that asked for fewer requests (503 SlowDown and its like).
        hedges: second requests for ranges that took far longer than their peers.
        cache_hits: objects that came from the node's cache.
        cache_bytes: their bytes.
        cache_error: why the load went on without the cache; empty when it did not.
        concurrency: the most reads that were in flight at once.
        seconds: wall time of the load, from the first allocation to the last view.
        phase_seconds: ``seconds`` divided among ``allocate``, ``read``, ``verify`` and ``copy``.
            They overlap in many threads; wall time is divided in proportion to the time that
            threads spent on each.
        peak_memory_bytes: the process's largest resident set so far.
    """

    bytes: int
    bytes_read: int
    retries: int
    throttled: int
    hedges: int
    cache_hits: int
    cache_bytes: int
    cache_error: str
    concurrency: int
    seconds: float
    phase_seconds: dict[str, float]
    peak_memory_bytes: int


def apportion(wall: float, thread_seconds: dict[str, float]) -> dict[str, float]:
    """Divide wall time among activities that overlapped, by the time threads spent on each."""
    total = sum(thread_seconds.values())
    return {name: wall * part / total if total else 0.0 for name, part in thread_seconds.items()}
