"""A token bucket: what keeps one connection at one rate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TokenBucket:
    """Lets ``rate`` bytes a second through, and ``burst`` bytes at once after a pause.

    It has no clock of its own: whoever asks says when that is.
    """

    rate: float
    burst: int
    tokens: float = 0.0
    at: float = 0.0

    def wait_seconds(self, size: int, now: float) -> float:
        """Take ``size`` bytes out, and give the seconds to wait before they may go."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        self.tokens -= size
        return max(0.0, -self.tokens / self.rate)
