"""One run of blocks on its way: at most two reads of it, of which the first to come counts."""

from __future__ import annotations

import threading
from collections.abc import Container

from shardedmodel_runtime.loading.arena import Arena
from shardedmodel_runtime.loading.runs import Run
from shardedmodel_runtime.storage.reading import Cancelled, Reading


class Flight:
    """A run, the arena that it goes to, and the reads of it that are under way.

    Args:
        run: what is read.
        arena: where it goes.
        began: when, in seconds.
    """

    def __init__(self, run: Run, arena: Arena, began: float) -> None:
        self.run = run
        self.arena = arena
        self.began = began
        self.hedged = False
        self.readings: list[Reading] = []
        self._lock = threading.Lock()
        self._winner: Reading | None = None

    def is_last(self, reading: Reading, flying: Container[Reading]) -> bool:
        """Whether nothing can come any more, now that ``reading`` has failed."""
        if self._winner is not None:
            return self._winner is reading
        return not any(other in flying for other in self.readings)

    def claim(self, reading: Reading) -> None:
        """Say that ``reading`` has all bytes: the other one ends before this returns.

        Raises:
            Cancelled: the other one was earlier.
        """
        with self._lock:
            if self._winner is not None:
                raise Cancelled
            self._winner = reading
        for other in self.readings:
            if other is not reading:
                other.cancel()

    def abandon(self) -> None:
        """End all reads, and do not wait for them."""
        for reading in self.readings:
            reading.abandon()
