from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

import pytest

from shardedmodel_runtime.errors import LayoutError, Terminated, Unavailable
from shardedmodel_runtime.layout.uploads import PARTS_IN_FLIGHT, Uploads
from shardedmodel_runtime.layout.writer import StreamingWriter
from tests.measured_pool import MeasuredPool

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
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def pool() -> MeasuredPool:
    return MeasuredPool(3 * PART)


@pytest.fixture
def uploads(pool: MeasuredPool, stop: threading.Event) -> Iterator[Uploads]:
    uploads = Uploads(pool, stop)
    yield uploads
    uploads.close()


class Told:
    """What a writer told of itself."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.published: list[tuple[str, list[str]]] = []

    def add(self, sha256: str, blocks: list[str]) -> None:
        self.published.append((sha256, blocks))


def make(target: Target, size: int, uploads: Uploads, told: Told | None = None) -> StreamingWriter:
    told = told or Told()
    return StreamingWriter(target, "key", size, uploads, told.written.append, told.add)


def test_a_stream_becomes_parts_in_order(uploads: Uploads) -> None:
    target, told = Target(), Told()
    writer = make(target, 10, uploads, told)
    for piece in (b"012", b"", b"3456789"):
        writer.write(memoryview(piece))
    writer.require_all()
    uploads.join()
    assert target.parts == {0: b"0123", 1: b"4567", 2: b"89"}
    assert sorted(told.written) == [2, 4, 4]
    assert target.ended == ["commit"]
    [(sha256, blocks)] = told.published
    assert sha256 == hashlib.sha256(b"0123456789").hexdigest()
    assert len(blocks) == 1


def test_an_object_is_published_as_soon_as_its_last_part_is_stored(uploads: Uploads) -> None:
    first, second = Told(), Told()
    writer, other = make(Target(), 4, uploads, first), make(Target(), 8, uploads, second)
    other.write(memoryview(b"0123"))
    writer.write(memoryview(b"0123"))
    uploads.join()
    assert (len(first.published), len(second.published)) == (1, 0)


def test_a_long_stream_needs_no_more_than_the_budget(uploads: Uploads, pool: MeasuredPool) -> None:
    writer = make(Target(), 400, uploads)
    for _ in range(100):
        writer.write(memoryview(b"0123"))
    uploads.join()
    assert 0 < pool.peak_bytes <= 3 * PART


def test_too_many_bytes_are_refused(uploads: Uploads) -> None:
    with pytest.raises(LayoutError, match="more than the announced 3"):
        make(Target(), 3, uploads).write(memoryview(b"0123"))


def test_too_few_bytes_are_not_committed(uploads: Uploads) -> None:
    target = Target()
    writer = make(target, 5, uploads)
    writer.write(memoryview(b"0123"))
    with pytest.raises(LayoutError, match="4 bytes came of the announced 5"):
        writer.require_all()
    uploads.join()
    assert target.ended == []


def test_a_part_that_fails_fails_the_object(uploads: Uploads) -> None:
    target = Target(fails_at=1)
    make(target, 8, uploads).write(memoryview(b"01234567"))
    with pytest.raises(Unavailable):
        uploads.join()
    assert target.ended == []


def test_a_part_that_failed_stops_the_streams_of_all_objects(uploads: Uploads) -> None:
    healthy = make(Target(), 400, uploads)
    with pytest.raises(Unavailable):
        make(Target(fails_at=0), 400, uploads).write(memoryview(b"0123" * 100))
    with pytest.raises(Unavailable):
        healthy.write(memoryview(b"0123"))


def test_after_a_stop_nothing_more_is_begun(uploads: Uploads, stop: threading.Event) -> None:
    target = Target()
    writer = make(target, 8, uploads)
    writer.write(memoryview(b"01234"))
    stop.set()
    with pytest.raises(Terminated):
        writer.write(memoryview(b"567"))
    with pytest.raises(Terminated):
        uploads.join()


def test_after_a_stop_no_part_is_sent_that_waited_for_others(
    uploads: Uploads, stop: threading.Event, pool: MeasuredPool
) -> None:
    under_way = threading.Event()

    class Slow(Target):
        def write_part(self, index: int, data: bytes | bytearray) -> None:
            under_way.wait()
            super().write_part(index, data)

    first = [Slow() for _ in range(PARTS_IN_FLIGHT)]
    pool.limit_bytes = (PARTS_IN_FLIGHT + 1) * PART
    for target in first:
        make(target, PART, uploads).write(memoryview(b"0123"))
    waiting = Target()
    make(waiting, PART, uploads).write(memoryview(b"0123"))
    stop.set()
    under_way.set()
    for _ in range(PARTS_IN_FLIGHT + 1):
        pool.take(PART)  # which all parts have given back
    uploads.close()
    assert [target.ended for target in first] == [["commit"]] * PARTS_IN_FLIGHT
    assert (waiting.parts, waiting.ended) == ({}, [])
