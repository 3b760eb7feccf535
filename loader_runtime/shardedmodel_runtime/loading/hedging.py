"""When to ask a second time for a range that takes far longer than its peers.

At the end of a load everybody waits for the slowest range. A second request for it, on another
connection, most often wins (Dean and Barroso, "The Tail at Scale", CACM 2013). Decisions alone:
no thread, no clock.
"""

from __future__ import annotations

from collections import deque
from statistics import median

PATIENCE = 4.0
"""Times the median that a range may take: of ranges of one size, a healthy store has one in some
hundreds beyond it."""
LEAST_SECONDS = 2.0
"""Below it nothing is slow: a busy machine alone explains a second. What really hangs would take
the 30 s of a connection's timeout."""
PEERS_NEEDED = 4
"""Ranges that must have ended before one is called slow: a median of fewer may be of slow ones."""
PEERS_KEPT = 64
"""Latest ranges that the median is of: the link's speed changes."""
SHARE = 20
"""One in so many ranges, and one at least, may be asked for twice: 5 % more requests at most."""
AT_ONCE = 2
"""Second requests in flight: each takes memory for a range."""


class Hedging:
    """Decides on second requests.

    Args:
        ranges: of the whole load; 0: none may be asked for twice.
    """

    def __init__(self, ranges: int) -> None:
        self._left = max(1, ranges // SHARE) if ranges else 0
        self._seconds: deque[float] = deque(maxlen=PEERS_KEPT)
        self._running = 0
        self.count = 0

    def finished(self, seconds: float) -> None:
        """Learn how long a range took."""
        self._seconds.append(seconds)

    def slow_after(self) -> float | None:
        """Seconds after which a range deserves a second request; None: none may be made now."""
        if not self._left or self._running >= AT_ONCE or len(self._seconds) < PEERS_NEEDED:
            return None
        return max(PATIENCE * median(self._seconds), LEAST_SECONDS)

    def began(self) -> None:
        """Count a second request that is made."""
        self.count += 1
        self._left -= 1
        self._running += 1

    def ended(self) -> None:
        """Count a second request that has ended, one way or the other."""
        self._running -= 1
