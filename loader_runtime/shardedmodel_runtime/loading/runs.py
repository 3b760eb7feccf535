"""What one request reads, and how far a load is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from shardedmodel_runtime.layout.manifest_content import LayoutObject


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive blocks of one object, ``[first, last)``, that one request reads.

    ``start`` and ``stop`` are bytes in the object.
    """

    item: LayoutObject
    first: int
    last: int
    start: int
    stop: int


def runs_of(
    item: LayoutObject, block_bytes: int, range_bytes: int, part: range | None = None
) -> Iterator[Run]:
    """Divide an object into runs of whole blocks of at most ``range_bytes``, at least one block.

    ``part`` are the blocks that are wanted; None: all of them.
    """
    blocks = max(1, range_bytes // block_bytes)
    part = range(len(item.blocks)) if part is None else part
    for first in range(part.start, part.stop, blocks):
        last = min(first + blocks, part.stop)
        yield Run(item, first, last, first * block_bytes, min(last * block_bytes, item.bytes))


@dataclass(slots=True)
class Progress:
    """How far a load is; any thread may read it at any time."""

    bytes: int = 0
    """Of the rank's objects."""
    bytes_done: int = 0
    """Read and, unless that was turned off, verified."""
    rereads: int = 0
    """Blocks that were read again because their checksum did not match."""
    throttled: int = 0
    """Answers that asked for fewer requests (503 SlowDown and its like)."""
    hedges: int = 0
    """Second requests for ranges that took far longer than their peers."""
    cache_hits: int = 0
    """Objects that came from the node's cache."""
    cache_bytes: int = 0
    """Their bytes."""
    concurrency: int = 0
    """Most reads that were in flight at once."""
    thread_seconds: dict[str, float] = field(
        default_factory=lambda: {"allocate": 0.0, "read": 0.0, "verify": 0.0}
    )
    """Time spent in each activity, added up over threads."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **counts: int) -> None:
        """Count, by the names of the fields."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    @contextmanager
    def timed(self, activity: str) -> Iterator[None]:
        """Count the time of a block of code for ``activity``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.thread_seconds[activity] += time.perf_counter() - began
