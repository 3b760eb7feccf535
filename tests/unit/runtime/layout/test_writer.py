from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from shardedmodel_runtime.errors import LayoutError, Unavailable
from shardedmodel_runtime.layout.buffers import BufferPool
from shardedmodel_runtime.layout.writer import StreamingWriter

PART = 4


class Target:
    """A store's writer that keeps what it gets, or fails at a part."""

    part_bytes = PART

    def __init__(self, fails_at: int | None = None) -> None:
        self.parts: dict[int, bytes] = {}
        self.ended: list[str] = []
        self._fails_at = fails_at

    def write_part(self, index: int, data: bytes | bytearray) -> None:
        if index == self._fails_at:
            raise Unavailable("gone")
        self.parts[index] = bytes(data)

    def commit(self) -> None:
        self.ended.append("commit")

    def abort(self) -> None:
        self.ended.append("abort")


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def make(
    target: Target, size: int, executor: Executor, written: list[int] | None = None
) -> StreamingWriter:
    told = [] if written is None else written
    return StreamingWriter(target, "key", size, BufferPool(3 * PART), executor, told.append)


def test_a_stream_becomes_parts_in_order(executor: Executor) -> None:
    target, written = Target(), list[int]()
    writer = make(target, 10, executor, written)
    for piece in (b"012", b"", b"3456789"):
        writer.write(memoryview(piece))
    sha256, blocks = writer.finish()
    assert target.parts == {0: b"0123", 1: b"4567", 2: b"89"}
    assert sha256 == hashlib.sha256(b"0123456789").hexdigest()
    assert len(blocks) == 1
    assert sorted(written) == [2, 4, 4]
    assert target.ended == ["commit"]


def test_an_empty_object_has_no_part(executor: Executor) -> None:
    target = Target()
    assert make(target, 0, executor).finish() == (hashlib.sha256().hexdigest(), [])
    assert target.parts == {}


def test_a_long_stream_needs_no_more_than_the_budget(executor: Executor) -> None:
    pool = BufferPool(2 * PART)
    writer = StreamingWriter(Target(), "key", 400, pool, executor, lambda count: None)
    for _ in range(100):
        writer.write(memoryview(b"0123"))
    writer.finish()
    assert pool.peak_bytes <= 2 * PART


def test_too_many_bytes_are_refused(executor: Executor) -> None:
    with pytest.raises(LayoutError, match="more than the announced 3"):
        make(Target(), 3, executor).write(memoryview(b"0123"))


def test_too_few_bytes_are_not_committed(executor: Executor) -> None:
    target = Target()
    writer = make(target, 5, executor)
    writer.write(memoryview(b"0123"))
    with pytest.raises(LayoutError, match="4 bytes came of the announced 5"):
        writer.finish()
    writer.abort()
    assert target.ended == ["abort"]


def test_a_part_that_fails_fails_the_object(executor: Executor) -> None:
    target = Target(fails_at=1)
    writer = make(target, 8, executor)
    writer.write(memoryview(b"01234567"))
    with pytest.raises(Unavailable):
        writer.finish()
    writer.abort()
    assert target.ended == ["abort"]


def test_a_part_that_failed_stops_the_stream_early(executor: Executor) -> None:
    writer = make(Target(fails_at=0), 400, executor)
    with pytest.raises(Unavailable):
        writer.write(memoryview(b"0123" * 100))
    writer.abort()
