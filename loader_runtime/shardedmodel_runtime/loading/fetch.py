"""Brings runs of blocks into their arenas: reads them in parallel and checks each block.

One thread decides (``Fetcher.fetch_all``), with ``Window`` and ``Hedging``; others read, verify and
tell it. They are daemons, since a thread that waits for a dead server must not keep a process from
ending.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from shardedmodel_runtime.errors import (
    ChecksumMismatch,
    SourceChanged,
    Throttled,
    Unavailable,
    excerpt,
)
from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.loading.arena import Arena
from shardedmodel_runtime.loading.config import seconds_until
from shardedmodel_runtime.loading.flight import Flight
from shardedmodel_runtime.loading.hedging import Hedging
from shardedmodel_runtime.loading.runs import Run
from shardedmodel_runtime.loading.terms import Terms, is_over
from shardedmodel_runtime.loading.verify import block_digest
from shardedmodel_runtime.loading.window import Window
from shardedmodel_runtime.storage.base import RangeStore
from shardedmodel_runtime.storage.reading import Reading

REREADS = 2
"""Times that a bad block is read again: a flipped bit on the way heals at once; what is still
wrong at the third reading lies wrong in the store."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A read that has ended: ``error`` is None when its bytes are where they belong."""

    flight: Flight
    reading: Reading
    error: Exception | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that failed, after which its read goes on; ``asked_at`` in seconds."""

    asked_at: float


class Fetcher:
    """Reads runs of one rank's objects once, and checks them.

    Args:
        store: where the objects are.
        terms: of the load.
        window: how many reads may be in flight.
        hedged: whether a slow range may be asked for twice.
    """

    def __init__(
        self,
        store: RangeStore,
        terms: Terms,
        window: Window,
        hedged: bool = True,
    ) -> None:
        self._store = store
        self._terms = terms
        self._progress = terms.progress
        self._window = window
        self._hedged = hedged
        self._digests: dict[str, str] = {}
        self._flights: dict[Reading, Flight] = {}
        self._tasks: SimpleQueue[tuple[Flight, Reading] | None] = SimpleQueue()
        self._events: SimpleQueue[Ended | Failed] = SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._last_failure = ""

    def fetch_all(self, work: list[tuple[Run, Arena]]) -> None:
        """Fetch every run; the first error ends the rest.

        Args:
            work: each run with the arena of its object.

        Raises:
            ChecksumMismatch: a block is wrong in the store.
            StorageError: the store refused or failed.
            Unavailable: the deadline passed.
        """
        waiting = deque(work)
        hedging = Hedging(len(work) if self._hedged else 0)
        try:
            while waiting or self._flights:
                while waiting and len(self._flights) < self._window.size:
                    self._start(Flight(*waiting.popleft(), time.monotonic()))
                if not waiting:
                    self._hedge(hedging)
                self._take(hedging, len(waiting))
        finally:
            for flight in self._flights.values():
                flight.abandon()
            for _ in range(self._threads):
                self._tasks.put(None)

    def settle(self, until: float | None) -> None:
        """Wait for reads that ``fetch_all`` left behind, which may still write where they read.

        Args:
            until: ``time.monotonic()`` until which to wait; None: as long as they take.

        Raises:
            Unavailable: one has not ended by then.
        """
        while self._busy:
            try:
                event = self._events.get(timeout=seconds_until(until))
            except Empty:
                raise Unavailable(
                    f"the load did not end within its deadline: {self._busy} reads of "
                    f"{self._store.uri} hang and may still write into its memory"
                ) from None
            self._busy -= isinstance(event, Ended)

    def _start(self, flight: Flight) -> None:
        if self._threads <= self._busy:
            self._begin_thread()
        reading = Reading(self._pinned(flight.run), self._told, flight.arena.make_room)
        flight.readings.append(reading)
        self._flights[reading] = flight
        self._progress.concurrency = max(self._progress.concurrency, len(self._flights))
        self._busy += 1
        self._tasks.put((flight, reading))

    def _begin_thread(self) -> None:
        """Begin one more thread; where the system gives none, those that there are do its work."""
        try:
            threading.Thread(target=self._work, name="fetch", daemon=True).start()
        except RuntimeError as error:  # of a limit of processes, say
            if not self._threads:
                raise Unavailable(
                    f"{self._store.uri}: nothing can be read: {excerpt(str(error))}; give the pod "
                    "more processes (pids), or fewer that take them"
                ) from error
        else:
            self._threads += 1

    def _pinned(self, run: Run) -> Callable[[str], None]:
        """Hold every answer about an object against the first one."""
        key = run.item.key

        def check(digest: str) -> None:
            if self._digests.setdefault(key, digest) != digest:
                raise SourceChanged(
                    f"{self._store.uri}/{key}: the object changed while it was being loaded"
                )

        return check

    def _told(self, asked_at: float, error: Unavailable) -> None:
        self._progress.add(throttled=isinstance(error, Throttled))
        self._last_failure = error.message
        self._events.put(Failed(asked_at))

    def _hedge(self, hedging: Hedging) -> None:
        """Ask a second time for what is slow, while the window has a place."""
        now = time.monotonic()
        for flight in list(self._flights.values()):
            patience = hedging.slow_after()
            if patience is None or len(self._flights) >= self._window.size:
                return
            if not flight.hedged and now - flight.began >= patience:
                flight.hedged = True
                hedging.began()
                self._progress.add(hedges=1)
                self._start(flight)

    def _take(self, hedging: Hedging, waiting: int) -> None:
        """Wait for the next event, and act on it."""
        try:
            event = self._events.get(timeout=self._patience(hedging, waiting))
        except Empty:
            if is_over(self._terms.deadline):
                raise self._late(waiting) from None
            return
        now = time.monotonic()
        if isinstance(event, Failed):
            self._window.failed(event.asked_at, now)
            return
        self._busy -= 1
        flight = event.flight
        if self._flights.pop(event.reading, None) is None:
            return  # the other read of the run was earlier
        if event.reading is not flight.readings[0]:
            hedging.ended()
        if event.error is None:
            self._landed(flight, now, hedging)
        elif flight.is_last(event.reading, self._flights):
            raise event.error

    def _landed(self, flight: Flight, now: float, hedging: Hedging) -> None:
        count = flight.run.stop - flight.run.start
        hedging.finished(now - flight.began)
        self._window.finished(flight.began, now, count)
        self._progress.add(bytes_done=count)
        for other in flight.readings:
            if self._flights.pop(other, None) is not None and other is not flight.readings[0]:
                hedging.ended()

    def _patience(self, hedging: Hedging, waiting: int) -> float | None:
        """Seconds until time alone changes something."""
        now = time.monotonic()
        moments = [] if self._terms.deadline is None else [self._terms.deadline]
        slow_after = None if waiting else hedging.slow_after()
        if slow_after is not None and len(self._flights) < self._window.size:
            moments += [f.began + slow_after for f in self._flights.values() if not f.hedged]
        return max(0.0, min(moments) - now) if moments else None

    def _late(self, waiting: int) -> Unavailable:
        missing = waiting + len(set(self._flights.values()))
        ranges = "1 range is" if missing == 1 else f"{missing} ranges are"
        why = self._last_failure or "raise deadline_seconds or look at the store's speed"
        return Unavailable(f"the load did not end within its deadline: {ranges} missing; {why}")

    def _work(self) -> None:
        """Read what the queue holds, in a thread of its own."""
        while (task := self._tasks.get()) is not None:
            flight, reading = task
            error: Exception | None = None
            try:
                self._read(flight, reading)
            except Exception as raised:  # noqa: BLE001 - the deciding thread raises it
                error = raised
            self._events.put(Ended(flight, reading, error))

    def _read(self, flight: Flight, reading: Reading) -> None:
        run = flight.run
        landing = flight.arena.landing if reading is flight.readings[0] else flight.arena.aside
        with landing(run.start, run.stop) as memory:
            self._fill(run, run.start, memory, reading)
            flight.claim(reading)
            if self._terms.verify:
                self._check(run, memory, reading)

    def _fill(self, run: Run, start: int, memory: memoryview, reading: Reading) -> None:
        key = run.item.key
        with self._progress.timed("read"):
            self._store.read_range(
                key, start, memory, digest=self._digests.get(key), reading=reading
            )

    def _check(self, run: Run, memory: memoryview, reading: Reading) -> None:
        size = self._terms.block_bytes
        for number in range(run.first, run.last):
            at = (number - run.first) * size
            block = memory[at : at + size]
            for _ in range(REREADS):
                if self.is_good(run.item, number, block):
                    break
                self._progress.add(rereads=1)
                self._fill(run, number * size, block, reading)
            else:
                if not self.is_good(run.item, number, block):
                    raise self._mismatch(run, number, len(block))

    def is_good(self, item: LayoutObject, number: int, block: memoryview) -> bool:
        """Whether memory holds what the manifest says of a block, by its number."""
        with self._progress.timed("verify"):
            return block_digest(block) == item.blocks[number]

    def _mismatch(self, run: Run, number: int, size: int) -> ChecksumMismatch:
        start = number * self._terms.block_bytes
        return ChecksumMismatch(
            f"{self._store.uri}/{run.item.key}: bytes [{start}, {start + size}) (block {number}) "
            f"differ from the manifest's checksum, also when read {1 + REREADS} times; "
            "delete the layout's manifest.json and pre-shard the model again"
        )
