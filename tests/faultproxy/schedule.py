"""Which request meets which fault: a pure function of a seed and of what is asked for.

Threads ask in any order, so the order decides nothing: what is asked for does, and how often it
was asked for before.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.faultproxy.faults import Kind
from tests.faultproxy.messages import Request


@dataclass(frozen=True)
class Plan:
    """What a proxy injects.

    Args:
        seed: another seed meets other requests.
        kinds: of faults, drawn for each request that meets one; none: the proxy only forwards.
        share: of different requests that meet a fault.
        burst: how many times in a row each of them does; None: always.
        suffix: of the paths that are met.
    """

    seed: int = 0
    kinds: tuple[Kind, ...] = ()
    share: float = 0.5
    burst: int | None = 1
    suffix: str = ".safetensors"

    def fault(self, request: Request, occurrence: int) -> Kind | None:
        """Decide.

        Args:
            request: as it came.
            occurrence: how many times the same was asked for before, from 0.
        """
        if not self.kinds or request.method != "GET" or not request.path.endswith(self.suffix):
            return None
        if self.burst is not None and occurrence >= self.burst:
            return None
        drawn = Random(f"{self.seed} {request.identity}")
        return drawn.choice(self.kinds) if drawn.random() < self.share else None

    def chance(self, request: Request, occurrence: int) -> Random:
        """Give what decides a fault's details."""
        return Random(f"{self.seed} {request.identity} {occurrence}")
