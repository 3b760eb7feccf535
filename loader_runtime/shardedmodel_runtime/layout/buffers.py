"""Buffers out of a stated budget: who wants one waits until one is free.

This is what bounds the pre-sharder's memory: all bytes of the model pass through these buffers
and nothing else.
"""

from __future__ import annotations

import threading


class BufferPool:
    """At most ``limit_bytes`` of buffers at a time, kept for reuse.

    Args:
        limit_bytes: the budget.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._changed = threading.Condition()
        self._free: dict[int, list[bytearray]] = {}
        self._free_bytes = 0
        self._taken_bytes = 0

    def take(self, size: int) -> bytearray:
        """Wait for a buffer of exactly ``size`` bytes; what it holds is undefined.

        Raises:
            ValueError: it could never be given: ``size`` exceeds the budget.
        """
        if size > self.limit_bytes:
            raise ValueError(f"a buffer of {size} bytes is beyond the budget {self.limit_bytes}")
        with self._changed:
            while self._taken_bytes + size > self.limit_bytes:
                self._changed.wait()
            self._taken_bytes += size
            kept = self._free.get(size)
            if kept:
                self._free_bytes -= size
                return kept.pop()
            while self._taken_bytes + self._free_bytes > self.limit_bytes:
                self._drop_one()
        return bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Give a buffer back; nobody may use it any more."""
        with self._changed:
            self._taken_bytes -= len(buffer)
            self._free_bytes += len(buffer)
            self._free.setdefault(len(buffer), []).append(buffer)
            self._changed.notify_all()

    def _drop_one(self) -> None:
        size = next(size for size, kept in self._free.items() if kept)
        self._free[size].pop()
        self._free_bytes -= size
