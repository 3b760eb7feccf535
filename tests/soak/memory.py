"""The memory of operator processes: samples, and whether they grow.

Two questions. Does a process grow by what it handles? That is asked of changes which follow one
another, are counted and come to no more objects than there were (``stream``): a leak grows with
their number, however fast they come. And does it grow while everything happens, as in chaos? That
is asked of its resident memory over time, once it is warm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression

MIB = 1024 * 1024
WARM_UP_SECONDS = 240.0
"""Of a process: modules are imported, every path of the code is gone for the first time, caches
are filled, and the heap of its threads takes shape. After two minutes of chaos it still grew by
half a MiB a minute, which two minutes later had ended."""
FLAT_BYTES_PER_MINUTE = 0.25 * MIB
"""A slope below it is called flat: from 100 MiB, it takes a day of chaos to reach 512 MiB."""
JUDGED_SECONDS = 240.0
"""A slope is judged over no less after the warm-up: noise is larger than what is sought."""

WARM_UP_SHARE = 1 / 3
"""Of the changes of a stream: their own path is warmed up by the first of them."""
FLAT_BYTES_PER_CHANGE = 4 * 1024
"""Growth for each handled change below it is called flat. One status of a model is as large, so a
change that leaves one object behind is found; pages that come and go weigh less over a stream."""
JUDGED_CHANGES = 200
"""Changes after the warm-up that a judgement needs: what is sought, 10 KiB for each, comes to
2 MiB then, and resident memory comes and goes by half of that."""


@dataclass
class Life:
    """One process and its samples: seconds since the soak began, and resident bytes."""

    pod: str
    pid: int
    samples: list[tuple[float, int]] = field(default_factory=list)
    handled: list[tuple[int, int]] = field(default_factory=list)
    """Changes of the stream so far, and resident bytes."""

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
    def bytes_per_change(self) -> float | None:
        """The same through the samples of the stream; None when it saw too little of it."""
        last = self.handled[-1][0] if self.handled else 0
        warm = [each for each in self.handled if each[0] >= last * WARM_UP_SHARE]
        if len(warm) < 2 or warm[-1][0] - warm[0][0] < JUDGED_CHANGES:
            return None
        counts, sizes = zip(*warm, strict=True)
        return linear_regression(counts, sizes).slope


def growing(lives: Sequence[Life]) -> list[str]:
    """Findings: processes that grow, and no process of which the stream can tell it.

    One that shrinks is flat. Those that lived for a short time are not judged by their minutes.
    """
    found = []
    for life in lives:
        name = f"operator {life.pod} (pid {life.pid})"
        if life.judged and life.bytes_per_minute >= FLAT_BYTES_PER_MINUTE:
            found.append(f"{name} grows by {life.bytes_per_minute / MIB:.2f} MiB/min")
        by_change = life.bytes_per_change
        if by_change is not None and by_change >= FLAT_BYTES_PER_CHANGE:
            found.append(f"{name} grows by {by_change / 1024:.1f} KiB for each change")
    if all(life.bytes_per_change is None for life in lives):
        found.append(f"no operator lived through {JUDGED_CHANGES} changes of the stream")
    return found


def resident_bytes(pid: int) -> int:
    """Resident set of a process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
    return sizes[0] * 1024 if sizes else 0
