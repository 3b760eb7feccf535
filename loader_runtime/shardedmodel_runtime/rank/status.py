"""How one rank stands, written by the thread that loads and read by those that report."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shardedmodel_runtime.report import RankReport


class RankStatus:
    """The rank's report, in the making.

    Args:
        rank: which rank it is.
        pod: name of its pod.
        node: name of its node.
    """

    def __init__(self, rank: int, pod: str = "", node: str = "") -> None:
        self._lock = threading.Lock()
        self._report = RankReport(rank=rank, pod=pod, node=node)

    def report(self) -> RankReport:
        """Give the report as it stands."""
        return self._report

    def update(self, **fields: Any) -> None:
        """Replace fields of the report, by their names in ``RankReport``."""
        with self._lock:
            self._report = self._report.model_copy(update=fields)

    def add_phases(self, seconds: dict[str, float]) -> None:
        """Add wall time to phases."""
        with self._lock:
            phases = dict(self._report.phase_seconds)
            for phase, spent in seconds.items():
                phases[phase] = phases.get(phase, 0.0) + spent
            self._report = self._report.model_copy(update={"phase_seconds": phases})

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block of code as a phase."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add_phases({name: time.perf_counter() - began})
