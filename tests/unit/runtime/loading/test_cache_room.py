"""Room in the node's cache: counted and taken by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.loading import cache as cache_module
from shardedmodel_runtime.loading.cache import ROOM_LOCK, NodeCache

SIZE = 8192


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
            theirs.commit()
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
