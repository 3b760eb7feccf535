"""When to ask a store again: one policy for every kind of request."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from shardedmodel_runtime.errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Attempts for one request (or one range), and how long to wait between them.

    Args:
        attempts: tries in all. Eight outlast a server's restart of some 20 s.
        base_seconds: mean of the first wait.
        max_seconds: longest mean wait: SlowDown asks for less pressure, not for silence.
        sleep: waits; a seam for tests.
    """

    attempts: int = 8
    base_seconds: float = 0.2
    max_seconds: float = 5.0
    sleep: Callable[[float], None] = time.sleep

    def delay(self, failures: int) -> float:
        """Seconds to wait after the n-th failure in a row: exponential, ±50 % jitter.

        The jitter keeps a hundred ranks that failed together from returning together.
        """
        mean = min(self.base_seconds * 2.0 ** (failures - 1), self.max_seconds)
        return mean * random.uniform(0.5, 1.5)

    def run(
        self,
        action: Callable[[], T],
        repeated: Callable[[Unavailable], None],
        sleep: Callable[[float], None] | None = None,
    ) -> T:
        """Call ``action`` until it succeeds or the attempts are used up.

        Args:
            action: raises :class:`Unavailable` for what may be repeated.
            repeated: told of every failure that is followed by a repetition.
            sleep: waits instead of the policy's own, where something may end the wait.

        Raises:
            Unavailable: the last one, with the number of attempts.
        """
        for failures in range(1, self.attempts):
            try:
                return action()
            except Unavailable as error:
                repeated(error)
                (sleep or self.sleep)(self.delay(failures))
        try:
            return action()
        except Unavailable as error:
            raise Unavailable(f"{error.message} (after {self.attempts} attempts)") from error
