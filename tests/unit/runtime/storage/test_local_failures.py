"""Files of which the system takes or gives a part, and then an error."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from shardedmodel_runtime.errors import StorageError
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.uri import parse_uri


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(parse_uri(tmp_path.as_uri()))


def links() -> list[str]:
    """What this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # another thread has closed it
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


def test_an_object_of_a_size_that_the_disk_does_not_take_leaves_nothing(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(file: int, size: int) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "truncate", refused)
    with pytest.raises(StorageError, match="File too large"):
        store.open_writer("a", 2**62, 2**62)
    assert list(tmp_path.iterdir()) == []
    assert [link for link in links() if link.startswith(str(tmp_path))] == []


def test_bytes_that_came_before_a_read_broke_off_are_counted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry = RetryPolicy(attempts=2, base_seconds=0.0)
    store = LocalStore(parse_uri(tmp_path.as_uri()), retry)
    store.write("a", b"0123456789")
    preadv = os.preadv
    ends = iter([4, None, 10])

    def breaking(file: int, buffers: list[memoryview], offset: int) -> int:
        end = next(ends)
        if end is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(file, [buffers[0][:end]], offset)

    monkeypatch.setattr(os, "preadv", breaking)
    into = bytearray(10)
    store.read_range("a", 0, memoryview(into))
    assert into == b"0123456789"
    assert (store.bytes_read, store.retries) == (14, 1)
