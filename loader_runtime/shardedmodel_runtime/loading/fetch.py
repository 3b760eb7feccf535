"""Reads of one rank: which bytes, in which runs of blocks, and how far they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from shardedmodel_runtime.errors import ChecksumMismatch, Unavailable
from shardedmodel_runtime.layout.manifest import LayoutObject
from shardedmodel_runtime.loading.arena import Arena
from shardedmodel_runtime.loading.verify import block_digest
from shardedmodel_runtime.storage.base import ObjectStore

REREADS = 2
"""Times that a bad block is read again: a flipped bit on the way heals at once; what is still
wrong at the third reading lies wrong in the store."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive blocks of one object, ``[first, last)``, that one request reads."""

    item: LayoutObject
    first: int
    last: int


def runs_of(item: LayoutObject, block_bytes: int, range_bytes: int) -> Iterator[Run]:
    """Divide an object into runs of whole blocks of at most ``range_bytes``, at least one block."""
    blocks = max(1, range_bytes // block_bytes)
    for first in range(0, len(item.blocks), blocks):
        yield Run(item, first, min(first + blocks, len(item.blocks)))


@dataclass(slots=True)
class Progress:
    """How far a load is; any thread may read it at any time."""

    bytes: int = 0
    """Of the rank's objects."""
    bytes_done: int = 0
    """Read and, unless that was turned off, verified."""
    rereads: int = 0
    """Blocks that were read again because their checksum did not match."""
    thread_seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "verify": 0.0})
    """Time spent in each activity, added up over threads."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, done: int = 0, rereads: int = 0) -> None:
        """Count bytes and repeated reads."""
        with self._lock:
            self.bytes_done += done
            self.rereads += rereads

    @contextmanager
    def timed(self, activity: str) -> Iterator[None]:
        """Count the time of a block of code for ``activity``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.thread_seconds[activity] += time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Brings runs of blocks into their arenas and checks each block where it landed."""

    store: ObjectStore
    block_bytes: int
    verify: bool
    progress: Progress

    def fetch_all(
        self, work: list[tuple[Run, Arena]], concurrency: int, deadline: float | None
    ) -> None:
        """Fetch every run, ``concurrency`` at a time; the first error ends the rest.

        Args:
            work: each run with the arena of its object.
            concurrency: threads that read.
            deadline: ``time.monotonic()`` after which the load has failed; None: never.

        Raises:
            ChecksumMismatch: a block is wrong in the store.
            StorageError: the store refused or failed.
            Unavailable: the deadline passed.
        """
        pool = ThreadPoolExecutor(min(concurrency, max(len(work), 1)), "fetch")
        try:
            _wait_all([pool.submit(self.fetch, run, arena) for run, arena in work], deadline)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def fetch(self, run: Run, arena: Arena) -> None:
        """Read one run into its arena, and verify it.

        Raises:
            ChecksumMismatch: a block is wrong, also after ``REREADS`` further readings.
            StorageError: the store refused or failed.
        """
        start = run.first * self.block_bytes
        stop = min(run.last * self.block_bytes, run.item.bytes)
        with arena.landing(start, stop) as memory:
            with self.progress.timed("read"):
                self.store.read_range(run.item.key, start, memory)
            if self.verify:
                self._verify(run, memory)
        self.progress.add(done=stop - start)

    def _verify(self, run: Run, memory: memoryview) -> None:
        for number in range(run.first, run.last):
            at = (number - run.first) * self.block_bytes
            block = memory[at : at + self.block_bytes]
            for _ in range(REREADS):
                if self._is_good(run.item, number, block):
                    break
                self.progress.add(rereads=1)
                with self.progress.timed("read"):
                    self.store.read_range(run.item.key, number * self.block_bytes, block)
            else:
                if not self._is_good(run.item, number, block):
                    raise self._mismatch(run.item, number, len(block))

    def _is_good(self, item: LayoutObject, number: int, block: memoryview) -> bool:
        with self.progress.timed("verify"):
            return block_digest(block) == item.blocks[number]

    def _mismatch(self, item: LayoutObject, number: int, size: int) -> ChecksumMismatch:
        start = number * self.block_bytes
        return ChecksumMismatch(
            f"{self.store.uri}/{item.key}: bytes [{start}, {start + size}) (block {number}) "
            f"differ from the manifest's checksum, also when read {1 + REREADS} times; "
            "delete the layout's manifest.json and pre-shard the model again"
        )


def _wait_all(futures: list[Future[None]], deadline: float | None) -> None:
    """Wait for all, and raise the first error as soon as it is there."""
    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
    done, pending = wait(futures, timeout, FIRST_EXCEPTION)
    for future in done:
        future.result()
    if pending:
        raise Unavailable(
            f"the load did not end within its deadline: {len(pending)} of {len(futures)} "
            "ranges are missing; raise deadline_seconds or look at the store's speed"
        )
