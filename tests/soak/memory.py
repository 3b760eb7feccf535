"""The memory of operator processes over time: samples, and whether they grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression

MIB = 1024 * 1024
WARM_UP_SECONDS = 120.0
"""Of a process: modules are imported, caches filled, and the heap of its threads takes shape."""
FLAT_BYTES_PER_MINUTE = 0.25 * MIB
"""A slope below it is called flat: from 100 MiB, it takes a day of chaos to reach 512 MiB."""
JUDGED_SECONDS = 240.0
"""A slope is judged over no less after the warm-up: noise is larger than what is sought."""


@dataclass
class Life:
    """One process and its samples: seconds since the soak began, and resident bytes."""

    pod: str
    pid: int
    samples: list[tuple[float, int]] = field(default_factory=list)

    @property
    def warm(self) -> Sequence[tuple[float, int]]:
        """Samples after the warm-up."""
        began = self.samples[0][0] if self.samples else 0.0
        return [each for each in self.samples if each[0] - began >= WARM_UP_SECONDS]

    @property
    def judged(self) -> bool:
        """Whether it lived long enough for its slope to say something."""
        warm = self.warm
        return len(warm) > 1 and warm[-1][0] - warm[0][0] >= JUDGED_SECONDS

    @property
    def bytes_per_minute(self) -> float:
        """Slope of the least-squares line through the samples after the warm-up."""
        times, sizes = zip(*self.warm, strict=True)
        return 60 * linear_regression(times, sizes).slope

    @property
    def is_flat(self) -> bool:
        """Whether it does not grow; a process that shrinks does not either."""
        return self.bytes_per_minute < FLAT_BYTES_PER_MINUTE


def growing(lives: Sequence[Life]) -> list[str]:
    """Findings: processes that grow. Those that lived for a short time are not judged."""
    return [
        f"operator {life.pod} (pid {life.pid}) grows by {life.bytes_per_minute / MIB:.2f} MiB/min"
        for life in lives
        if life.judged and not life.is_flat
    ]


def resident_bytes(pid: int) -> int:
    """Resident set of a process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
    return sizes[0] * 1024 if sizes else 0
