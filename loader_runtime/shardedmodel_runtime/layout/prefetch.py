"""Reads ahead: ranged reads of a source in the background, handed over in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from shardedmodel_runtime.layout.buffers import BufferPool
from shardedmodel_runtime.layout.reading import SourceRead
from shardedmodel_runtime.storage.base import ReadableStore

READ_CHUNK_BYTES = 8 * 1024 * 1024
"""Largest ranged read: half the usual part of a multipart upload, so that many fit a budget."""
READS_AHEAD = 3
"""Reads in flight while one is being cut: with it they make a budget of 32 MiB."""


def read_ahead(
    store: ReadableStore,
    reads: Iterable[SourceRead],
    digests: Mapping[str, str],
    *,
    chunk_bytes: int = READ_CHUNK_BYTES,
    in_order: bool = False,
) -> Generator[memoryview, None, None]:
    """Yield the bytes of each piece of each read, in order.

    Args:
        store: the source.
        reads: what to read, none longer than ``chunk_bytes``.
        digests: the state of each object that the plan was made from.
        chunk_bytes: size of each of the ``READS_AHEAD + 1`` buffers.
        in_order: begin a read when the one before it is done.

    Yields:
        The bytes of one piece, valid until the next is asked for.

    Raises:
        SourceChanged: an object is no longer what the plan was made from.
        StorageError: the source cannot be read.
    """
    pool = BufferPool((READS_AHEAD + 1) * chunk_bytes)
    upcoming = iter(reads)
    pending: deque[tuple[SourceRead, bytearray, Future[None]]] = deque()
    executor = ThreadPoolExecutor(1 if in_order else READS_AHEAD, thread_name_prefix="read")

    def start_next() -> None:
        read = next(upcoming, None)
        if read is None:
            return
        buffer = pool.take(chunk_bytes)
        into = memoryview(buffer)[: read.stop - read.start]
        future = executor.submit(
            store.read_range, read.key, read.start, into, digest=digests[read.key]
        )
        pending.append((read, buffer, future))

    try:
        for _ in range(READS_AHEAD):
            start_next()
        while pending:
            read, buffer, future = pending.popleft()
            future.result()
            start_next()
            yield from _split(read, memoryview(buffer))
            pool.give(buffer)
    finally:
        executor.shutdown(cancel_futures=True)


def _split(read: SourceRead, data: memoryview) -> Iterator[memoryview]:
    position = 0
    for piece in read.pieces:
        size = piece.stop - piece.start
        yield data[position : position + size]
        position += size
