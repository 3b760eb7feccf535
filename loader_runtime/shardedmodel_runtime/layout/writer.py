"""One object of a layout on its way: bytes in, in order; parts out, in the background.

The caller's thread fills a part's buffer. Full parts are digested and stored by threads that all
objects share; each gives its buffer back when the store has the part. So the buffers' budget
bounds the parts in flight, and no object can starve the others. The thread that stores an
object's last part publishes it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from shardedmodel_runtime.errors import LayoutError
from shardedmodel_runtime.layout.digests import ObjectDigest
from shardedmodel_runtime.layout.uploads import Uploads
from shardedmodel_runtime.storage.base import ObjectWriter


class StreamingWriter:
    """Cuts a stream of bytes into parts and hands them to a store's writer.

    Args:
        target: where parts go.
        key: the object's name, for messages.
        size: bytes that will come, exactly.
        uploads: threads and buffers.
        written: told of the bytes of each part that the store has taken.
        published: called when the object is visible, with its SHA-256 and its blocks' checksums
            in hex.
    """

    def __init__(
        self,
        target: ObjectWriter,
        key: str,
        size: int,
        uploads: Uploads,
        written: Callable[[int], None],
        published: Callable[[str, list[str]], None],
    ) -> None:
        self._target = target
        self._key = key
        self._size = size
        self._uploads = uploads
        self._written = written
        self._published = published
        self._received = 0
        self._buffer: bytearray | None = None
        self._filled = 0
        self._parts = 0
        self._lock = threading.Lock()
        self._digest_lock = threading.Lock()
        self._digest = ObjectDigest()
        self._undigested: deque[tuple[int, bytearray, int]] = deque()
        self._stored = 0

    def write(self, data: memoryview) -> None:
        """Take the object's next bytes; waits while the budget is used up.

        Raises:
            LayoutError: more bytes came than were announced.
            StorageError: a part could not be stored.
            Terminated: the process was asked to end.
        """
        self._uploads.check()
        if self._received + len(data) > self._size:
            raise LayoutError(f"{self._key}: more than the announced {self._size} bytes came")
        self._received += len(data)
        while data:
            if self._buffer is None:
                # All of one size, also for a shorter last part: others would fragment memory.
                self._buffer = self._uploads.take(self._target.part_bytes)
            count = min(len(data), self._part_size() - self._filled)
            # numpy's copy, unlike a slice's, lets the threads that store parts go on meanwhile.
            into = np.frombuffer(self._buffer, np.uint8, count, self._filled)
            np.copyto(into, np.frombuffer(data, np.uint8, count))
            self._filled += count
            data = data[count:]
            if self._filled == self._part_size():
                self._send(self._buffer)

    def require_all(self) -> None:
        """See that all announced bytes came.

        Raises:
            LayoutError: some did not.
        """
        if self._received != self._size:
            raise LayoutError(
                f"{self._key}: {self._received} bytes came of the announced {self._size}"
            )

    def abort(self) -> None:
        """Drop the object unless it is published; parts of it that are under way fail."""
        self._target.abort()

    def _part_size(self) -> int:
        return min(self._target.part_bytes, self._size - self._parts * self._target.part_bytes)

    def _send(self, buffer: bytearray) -> None:
        self._undigested.append((self._parts, buffer, self._filled))
        self._parts += 1
        self._buffer, self._filled = None, 0
        self._uploads.submit(self._store_next)

    def _store_next(self) -> None:
        """Digest and store the oldest part that is not yet digested.

        Which thread takes which part does not matter: the lock makes digesting follow the
        order of the bytes, and storing has none.
        """
        with self._digest_lock:
            index, buffer, size = self._undigested.popleft()
            self._digest.update(memoryview(buffer)[:size])
        try:
            self._uploads.check()
            self._target.write_part(index, buffer if size == len(buffer) else buffer[:size])
        finally:
            self._uploads.pool.give(buffer)
        self._written(size)
        with self._lock:
            self._stored += size
            last = self._stored == self._size
        if last:
            self._target.commit()
            self._published(*self._digest.finish())
