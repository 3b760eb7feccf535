"""One read of a range, as seen by the thread that wants it rather than the one that reads.

A second request for a range that hangs, and a load that has failed, both have to end reads that
wait for a server. The store tells a ``Reading`` when bytes are about to land, and the owner ends
it from another thread: no byte lands any more when :meth:`Reading.cancel` returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardedmodel_runtime.errors import Unavailable


class Cancelled(Exception):
    """The read was ended by its owner; not an error of anybody's."""


class Reading:
    """A read that can be ended and observed.

    Args:
        opened: told of the object's digest in each answer, before its bytes land; raises where
            the object is not the one that is wanted.
        failed: told of each failure after which the store asks again, and when the request was
            made, in seconds of ``time.monotonic``.
        coming: told of the memory that the next bytes are about to come into.
    """

    def __init__(
        self,
        opened: Callable[[str], None] = lambda digest: None,
        failed: Callable[[float, Unavailable], None] = lambda asked_at, error: None,
        coming: Callable[[memoryview], None] = lambda memory: None,
    ) -> None:
        self._opened = opened
        self._failed = failed
        self.coming = coming
        self._asked_at = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._stop: Callable[[], None] = lambda: None

    @contextmanager
    def landing(self, digest: str, stop: Callable[[], None]) -> Iterator[None]:
        """Let bytes of one answer land.

        Args:
            digest: of the object that the answer is about.
            stop: makes a read that blocks return, from another thread.

        Raises:
            Cancelled: nobody wants the bytes any more.
        """
        self._opened(digest)
        with self._lock:
            self.check()
            self._stop = stop
            self._idle.clear()
        try:
            yield
        finally:
            with self._lock:
                self._stop = lambda: None
                self._idle.set()

    def check(self) -> None:
        """See that somebody still wants the bytes.

        Raises:
            Cancelled: nobody does.
        """
        if self._ended.is_set():
            raise Cancelled

    def failed(self, error: Unavailable) -> None:
        """Tell of a request that failed and is going to be repeated.

        Raises:
            Cancelled: it failed because nobody wants the bytes any more.
        """
        self.check()
        self._failed(self._asked_at, error)

    def sleep(self, seconds: float) -> None:
        """Wait before asking again, or until nobody wants the bytes.

        Raises:
            Cancelled: nobody does.
        """
        self._ended.wait(seconds)
        self.check()
        self._asked_at = time.monotonic()

    def abandon(self) -> None:
        """End the read, and do not wait for it: bytes may still land for a moment."""
        with self._lock:
            self._ended.set()
            self._stop()

    def cancel(self) -> None:
        """End the read; no byte of it lands any more."""
        self.abandon()
        self._idle.wait()
