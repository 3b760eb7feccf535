"""How many reads are in flight: grows while throughput grows, halves when the store pushes back.

Additive increase, multiplicative decrease, as TCP does it (RFC 5681), with one difference: a
store says when it is overloaded, but not when more connections bring nothing. So throughput is
measured in rounds of as many reads as the window has places, and a larger window has to earn its
place. Decisions alone: no thread, no clock.
"""

from __future__ import annotations

START = 4
"""Reads in flight at first: what two cores on a local store take, and two doublings away from what
a 10 Gb/s link takes."""
LEAST_GAIN = 0.5
"""Share of the expected growth that has to come: a window that is larger by an eighth must bring
a sixteenth. Less than half is what noise does, more would stop growth below the link's speed."""
STEP = 8
"""Growth after the first push-back, or the first growth without gain: an eighth."""
ROUNDS_HELD = 8
"""Rounds at one size before a larger one is tried again: others may have left the link."""


class Window:
    """Reads that may be in flight.

    Args:
        limit: the most.
    """

    def __init__(self, limit: int) -> None:
        self.size = min(START, limit)
        self._limit = limit
        self._doubling = True
        self._halved_at = float("-inf")
        self._former: tuple[int, float] = (0, 0.0)
        self._held = 0
        self._round_began: float | None = None
        self._reads = 0
        self._bytes = 0

    def finished(self, began: float, now: float, size: int) -> None:
        """Count a read of ``size`` bytes that began and ended at these times, in seconds."""
        if self._round_began is None:
            self._round_began = began
        self._reads += 1
        self._bytes += size
        if self._reads >= self.size and now > self._round_began:
            self._decide(self._bytes / (now - self._round_began))
            self._begin(now)

    def failed(self, began: float, now: float) -> None:
        """Halve the window, once for all reads that were under way together."""
        if began < self._halved_at:
            return
        self.size = max(1, self.size // 2)
        self._halved_at = now
        self._doubling = False
        self._held = ROUNDS_HELD
        self._former = (0, 0.0)
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._round_began = now
        self._reads = 0
        self._bytes = 0

    def _decide(self, rate: float) -> None:
        size, before = self._former
        self._former = (0, 0.0)
        if size and rate < before * (1 + LEAST_GAIN * (self.size / size - 1)):
            self.size = size
            self._doubling = False
            self._held = ROUNDS_HELD
        elif self._held:
            self._held -= 1
        elif self.size < self._limit:
            self._former = (self.size, rate)
            growth = self.size if self._doubling else max(1, self.size // STEP)
            self.size = min(self._limit, self.size + growth)
