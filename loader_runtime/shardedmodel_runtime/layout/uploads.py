"""The threads and the memory that all open objects share, and what became of their parts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from shardedmodel_runtime.errors import Terminated
from shardedmodel_runtime.layout.buffers import BufferPool

PARTS_IN_FLIGHT = 4
"""Uploads at a time. 2, 4 and 8 measured alike where server and client share two cores; on S3
one connection takes some 90 MB/s, so four keep up with what one core can digest and sign."""


def asked_to_end() -> Terminated:
    """Make the error of who was asked to end while objects were written."""
    return Terminated("the process was asked to end before the layout was complete")


class Uploads:
    """Runs parts in the background; the first failure, or a stop, ends everything.

    Args:
        pool: where part buffers come from; it must have room for one part of each open object
            and one more, or ``take`` could wait for ever.
        stop: once it is set, nothing more is begun. What is under way in a store is never
            interrupted: an upload of which the answer is lost could not be aborted.
    """

    def __init__(self, pool: BufferPool, stop: threading.Event) -> None:
        self.pool = pool
        self._stop = stop
        self._executor = ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="upload")
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._pending: set[Future[None]] = set()

    def check(self) -> None:
        """See whether it is worth going on.

        Raises:
            StorageError: a part could not be stored.
            Terminated: the process was asked to end.
        """
        if self._failure is not None:
            raise self._failure
        if self._stop.is_set():
            raise asked_to_end()

    def take(self, size: int) -> bytearray:
        """Wait for a buffer.

        Raises:
            StorageError: a part could not be stored.
            Terminated: the process was asked to end.
        """
        buffer = self.pool.take(size)
        self.check()
        return buffer

    def submit(self, action: Callable[[], None]) -> None:
        """Run ``action`` in one of the threads."""
        future = self._executor.submit(action)
        with self._lock:
            self._pending.add(future)
        future.add_done_callback(self._ended)

    def join(self) -> None:
        """Wait for everything that was submitted.

        Raises:
            StorageError: a part could not be stored.
            Terminated: the process was asked to end.
        """
        with self._lock:
            pending = list(self._pending)
        for future in pending:
            self.check()
            future.result()  # who waits may be told before ``_ended`` is
        self.check()

    def close(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        self._executor.shutdown(cancel_futures=True)

    def _ended(self, future: Future[None]) -> None:
        with self._lock:
            self._pending.discard(future)
            if future.cancelled():
                return
            self._failure = self._failure or future.exception()
