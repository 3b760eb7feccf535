"""One object of a layout on its way: bytes in, in order; parts out, in the background.

The caller's thread fills a part's buffer. Full parts are digested and uploaded by the threads of
an executor that all objects share; each gives its buffer back when the store has the part. So
the buffers' budget bounds the parts in flight, and no object can starve the others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future

from shardedmodel_runtime.errors import LayoutError
from shardedmodel_runtime.layout.buffers import BufferPool
from shardedmodel_runtime.layout.digests import ObjectDigest
from shardedmodel_runtime.storage.base import ObjectWriter


class StreamingWriter:
    """Cuts a stream of bytes into parts and hands them to a store's writer.

    Args:
        target: where parts go.
        key: the object's name, for messages.
        size: bytes that will come, exactly.
        pool: where buffers come from; it must have room for one part of each open object and
            one more, or ``write`` could wait for ever.
        executor: digests and uploads parts.
        written: told of the bytes of each part that the store has taken.
    """

    def __init__(
        self,
        target: ObjectWriter,
        key: str,
        size: int,
        pool: BufferPool,
        executor: Executor,
        written: Callable[[int], None],
    ) -> None:
        self._target = target
        self._key = key
        self._size = size
        self._pool = pool
        self._executor = executor
        self._written = written
        self._received = 0
        self._buffer: bytearray | None = None
        self._filled = 0
        self._parts = 0
        self._digest = ObjectDigest()
        self._digest_lock = threading.Lock()
        self._undigested: deque[tuple[int, bytearray]] = deque()
        self._uploads: list[Future[None]] = []

    def write(self, data: memoryview) -> None:
        """Take the object's next bytes; waits while the budget is used up.

        Raises:
            LayoutError: more bytes came than were announced.
            StorageError: an earlier part could not be stored.
        """
        if self._received + len(data) > self._size:
            raise LayoutError(f"{self._key}: more than the announced {self._size} bytes came")
        self._received += len(data)
        while data:
            if self._buffer is None:
                self._raise_if_failed()
                self._buffer = self._pool.take(self._next_part_size())
            count = min(len(data), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + count] = data[:count]
            self._filled += count
            data = data[count:]
            if self._filled == len(self._buffer):
                self._send(self._buffer)

    def finish(self) -> tuple[str, list[str]]:
        """Wait for all parts and make the object visible.

        Returns:
            The object's SHA-256 and its blocks' checksums, in hex.

        Raises:
            LayoutError: fewer bytes came than were announced.
            StorageError: a part could not be stored.
        """
        if self._received != self._size:
            raise LayoutError(
                f"{self._key}: {self._received} bytes came of the announced {self._size}"
            )
        for upload in self._uploads:
            upload.result()
        self._target.commit()
        return self._digest.finish()

    def abort(self) -> None:
        """Wait for the parts in flight and drop the object."""
        for upload in self._uploads:
            upload.cancel()
        for upload in self._uploads:
            if not upload.cancelled():
                upload.exception()
        self._target.abort()

    def _next_part_size(self) -> int:
        return min(self._target.part_bytes, self._size - self._parts * self._target.part_bytes)

    def _send(self, buffer: bytearray) -> None:
        self._undigested.append((self._parts, buffer))
        self._parts += 1
        self._buffer, self._filled = None, 0
        self._uploads.append(self._executor.submit(self._store_next))

    def _store_next(self) -> None:
        """Digest and upload the oldest part that is not yet digested.

        Which thread takes which part does not matter: the lock makes digesting follow the
        order of the bytes, and uploading has none.
        """
        with self._digest_lock:
            index, buffer = self._undigested.popleft()
            self._digest.update(buffer)
        size = len(buffer)
        try:
            self._target.write_part(index, buffer)
        finally:
            self._pool.give(buffer)
        self._written(size)

    def _raise_if_failed(self) -> None:
        for upload in self._uploads:
            if upload.done():
                upload.result()
        self._uploads = [upload for upload in self._uploads if not upload.done()]
