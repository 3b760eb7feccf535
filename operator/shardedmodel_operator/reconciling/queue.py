"""The queue of keys to reconcile: deduplicating, delayed, one flight per key.

A key that is added many times before a worker takes it is worked on once; a key that is added
while a worker has it is worked on once more afterwards, so no change is ever missed. Failures of
one key delay that key alone.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from shardedmodel_operator.cluster.cache import Key

FIRST_RETRY_SECONDS = 1.0
"""Delay after a key's first failure: a conflict or a reset is usually over by then."""
LAST_RETRY_SECONDS = 60.0
"""Longest delay: someone who mends a quota should not wait longer for it to be noticed."""


class Schedule:
    """Which keys are due when; knows no clock and never waits.

    All times are seconds on one monotonic clock, which the caller reads.
    """

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = count()
        self._in_flight: set[Key] = set()
        self._failures: dict[Key, int] = {}

    def add(self, key: Key, at: float) -> None:
        """Ask for ``key`` at time ``at``; the earliest of several requests counts."""
        known = self._due.get(key)
        if known is not None and known <= at:
            return
        self._due[key] = at
        if key not in self._in_flight:
            self._push(key)

    def take(self, now: float) -> Key | None:
        """Take the key that is due longest, if any is due and nobody works on it."""
        self._drop_outdated()
        if not self._heap or self._heap[0][0] > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        self._in_flight.add(key)
        return key

    def finish(self, key: Key) -> None:
        """Give ``key`` back; it may be taken again if it was added meanwhile."""
        self._in_flight.discard(key)
        if key in self._due:
            self._push(key)

    def next_at(self) -> float | None:
        """When the next key will be due; None when none is waiting."""
        self._drop_outdated()
        return self._heap[0][0] if self._heap else None

    def failed(self, key: Key) -> float:
        """Note a failure and give the delay in seconds: 1, 2, 4, … 60."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # The exponent is bounded so that a key that fails for a year does not overflow a float.
        return float(min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures, 16)))

    def succeeded(self, key: Key) -> None:
        """Forget the failures of ``key``."""
        self._failures.pop(key, None)

    def depth(self, now: float) -> int:
        """How many keys are due and wait for a worker."""
        # A copy: metrics are read from another thread.
        return sum(1 for at in list(self._due.values()) if at <= now)

    def oldest_age(self, now: float) -> float:
        """Seconds that the longest waiting key is overdue; 0 when none is."""
        return max((now - at for at in list(self._due.values()) if at <= now), default=0.0)

    def _push(self, key: Key) -> None:
        heapq.heappush(self._heap, (self._due[key], next(self._order), key))

    def _drop_outdated(self) -> None:
        """Drop heap entries of keys that are taken or were moved to an earlier time."""
        while self._heap:
            at, _, key = self._heap[0]
            if key not in self._in_flight and self._due.get(key) == at:
                return
            heapq.heappop(self._heap)


class WorkQueue:
    """A ``Schedule`` on a clock, for the workers of one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._schedule = Schedule()
        self._changed = asyncio.Condition()

    async def add(self, key: Key, delay: float = 0.0) -> None:
        """Ask for ``key`` in ``delay`` seconds."""
        async with self._changed:
            self._schedule.add(key, self._clock() + delay)
            self._changed.notify_all()

    async def get(self) -> Key:
        """Wait for a key that is due; the caller must hand it back to ``done``."""
        async with self._changed:
            while True:
                key = self._schedule.take(self._clock())
                if key is not None:
                    return key
                await self._wait_for_change()

    async def done(self, key: Key, *, failed: bool, after: float | None = None) -> float | None:
        """Hand ``key`` back.

        Args:
            key: what ``get`` gave.
            failed: the work did not succeed; the key comes again after its back-off.
            after: seconds after which a key that succeeded wants to come again.

        Returns:
            Seconds until the key comes again by itself; None when nothing was asked for.
        """
        async with self._changed:
            if failed:
                after = self._schedule.failed(key)
            else:
                self._schedule.succeeded(key)
            if after is not None:
                self._schedule.add(key, self._clock() + after)
            self._schedule.finish(key)
            self._changed.notify_all()
            return after

    def depth(self) -> int:
        """How many keys are due and wait for a worker."""
        return self._schedule.depth(self._clock())

    def oldest_age(self) -> float:
        """Seconds that the longest waiting key is overdue."""
        return self._schedule.oldest_age(self._clock())

    async def _wait_for_change(self) -> None:
        """Sleep until a key is added or handed back, or the next one is due."""
        next_at = self._schedule.next_at()
        timeout = None if next_at is None else max(0.0, next_at - self._clock())
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return
