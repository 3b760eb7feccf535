"""Room in the node's cache: taken by one process at a time, and given back by killed ones."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.loading import cache as cache_module
from shardedmodel_runtime.loading.cache import LOCK_SUFFIX, ROOM_LOCK, NodeCache
from shardedmodel_runtime.loading.cache_writer import STALE_SECONDS, is_left
from shardedmodel_runtime.storage.local import TEMPORARY_PREFIX

SIZE = 8192
CONTENT = memoryview(bytes(SIZE))


def an_object(number: int = 0) -> LayoutObject:
    return LayoutObject(
        key=f"object-{number}",
        ranks=[0],
        bytes=SIZE,
        sha256=f"{number:064x}",
        blocks=["0" * 32] * 2,
        data_start=8,
        tensors=[],
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)


def finds_room(cache: NodeCache, item: LayoutObject) -> bool:
    with cache.writer(item) as writer:
        return writer is not None


def test_room_is_counted_when_no_other_process_takes_any(tmp_path: Path) -> None:
    cache, peer = NodeCache(tmp_path, SIZE), NodeCache(tmp_path, None)
    with ThreadPoolExecutor() as threads, peer.writer(an_object(1)) as theirs:
        with locked(tmp_path / ROOM_LOCK):
            mine = threads.submit(finds_room, cache, an_object())
            assert theirs is not None
            theirs.write(0, CONTENT)
            assert not mine.done()
        assert mine.result(30)


def test_room_is_taken_before_another_process_counts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncate = os.truncate

    def watched(file: int, size: int) -> None:
        with pytest.raises(BlockingIOError), locked(tmp_path / ROOM_LOCK):
            pass
        truncate(file, size)

    monkeypatch.setattr(os, "truncate", watched)
    with NodeCache(tmp_path, SIZE).writer(an_object()) as writer:
        assert writer is not None
        assert not finds_room(NodeCache(tmp_path, SIZE), an_object(1))


def test_who_hangs_while_making_room_is_told_of_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "ROOM_SECONDS", 0.05)
    cache = NodeCache(tmp_path, SIZE)
    with locked(tmp_path / ROOM_LOCK):
        assert not finds_room(cache, an_object())
    assert "another process has kept room.lock locked" in cache.error


@contextmanager
def forked_with(path: Path) -> Iterator[None]:
    """Have an open file as a process has it that was forked, by ``os.fork`` say, meanwhile."""
    opened = Path("/proc/self/fd")
    (file,) = [int(name) for name in os.listdir(opened) if (opened / name).resolve() == path]
    copy = os.dup(file)
    yield
    os.close(copy)


def test_a_process_that_is_forked_meanwhile_keeps_no_object_locked(tmp_path: Path) -> None:
    cache, peer = NodeCache(tmp_path, None), NodeCache(tmp_path, None)
    with ExitStack() as forked:
        with cache.lock(an_object(), 0.0):
            forked.enter_context(forked_with(tmp_path / f"{an_object().sha256}{LOCK_SUFFIX}"))
        with peer.lock(an_object(), 0.0) as got:
            assert got


def test_a_process_that_is_forked_meanwhile_keeps_no_room_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, make_room = NodeCache(tmp_path, SIZE), NodeCache._make_room
    monkeypatch.setattr(cache_module, "ROOM_SECONDS", 0.05)
    with ExitStack() as forked, monkeypatch.context() as patched:

        def forking(self: NodeCache, size: int) -> bool:
            forked.enter_context(forked_with(tmp_path / ROOM_LOCK))
            return make_room(self, size)

        patched.setattr(NodeCache, "_make_room", forking)
        assert finds_room(cache, an_object())
        patched.undo()
        assert finds_room(NodeCache(tmp_path, SIZE), an_object(1))


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / an_object(number).sha256
        path.write_bytes(bytes(SIZE))
        os.utime(path, (number, number))
    cache = NodeCache(tmp_path, 2 * SIZE)
    assert cache.holds(an_object(1))
    assert finds_room(cache, an_object(3))
    assert cache.holds(an_object(1))
    assert not cache.holds(an_object(2))


def temporary(folder: Path) -> Path:
    path = folder / f"{TEMPORARY_PREFIX}left"
    path.write_bytes(bytes(SIZE))
    return path


def test_what_a_live_writer_writes_stays(tmp_path: Path) -> None:
    with NodeCache(tmp_path, None).writer(an_object()) as writer:
        assert writer is not None
        assert finds_room(NodeCache(tmp_path, None), an_object(1))
        writer.write(0, CONTENT)
    assert (tmp_path / an_object().sha256).read_bytes() == CONTENT


def test_what_a_killed_writer_left_goes_at_once(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from shardedmodel_runtime.loading.cache_writer import CacheWriter
writer = CacheWriter(Path(sys.argv[1], "entry"), 8192, print)
print("writing", flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (left,) = tmp_path.glob(f"{TEMPORARY_PREFIX}*")
        process.kill()
    assert finds_room(NodeCache(tmp_path, SIZE), an_object(1))
    assert not left.exists()


@pytest.mark.parametrize(("age", "stays"), [(0.0, True), (STALE_SECONDS + 60, False)])
def test_where_there_are_no_locks_age_decides_what_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, stays: bool
) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    path = temporary(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    assert is_left(path, time.time() - age) is not stays


def test_what_is_locked_for_longer_than_a_load_takes_was_left(tmp_path: Path) -> None:
    path = temporary(tmp_path)
    with locked(path):
        assert is_left(path, time.time() - STALE_SECONDS - 60)
