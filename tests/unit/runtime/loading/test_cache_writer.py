"""One entry of the node's cache on its way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardedmodel_runtime.loading.cache_writer import CacheWriter

SIZE = 8192
CONTENT = memoryview(os.urandom(SIZE))


@pytest.fixture
def errors() -> list[OSError]:
    return []


@pytest.fixture
def writer(tmp_path: Path, errors: list[OSError]) -> CacheWriter:
    return CacheWriter(tmp_path / "entry", SIZE, errors.append)


@contextmanager
def stalled(writer: CacheWriter, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Thread]:
    """Write in a thread to a disk that does not answer meanwhile."""
    began, go_on = threading.Event(), threading.Event()
    pwrite = os.pwrite

    def slow(file: int, data: memoryview, offset: int) -> int:
        began.set()
        assert go_on.wait(30)
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    thread = threading.Thread(target=writer.write, args=(0, CONTENT), daemon=True)
    thread.start()
    assert began.wait(30)
    try:
        yield thread
    finally:
        go_on.set()
        thread.join(30)


def open_files(folder: Path) -> list[str]:
    """Files of ``folder`` that this process holds open, those without a name too."""
    numbers = Path("/proc/self/fd").iterdir()
    names = [os.readlink(number) for number in numbers if number.is_symlink()]
    return [name for name in names if name.startswith(str(folder))]


def test_a_disk_that_stalls_keeps_nobody_from_closing(
    writer: CacheWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stalled(writer, monkeypatch) as thread:
        writer.close()
        assert thread.is_alive()


def test_the_file_is_closed_when_the_last_write_to_it_has_ended(
    tmp_path: Path, writer: CacheWriter, errors: list[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    with stalled(writer, monkeypatch):
        writer.close()
        assert len(open_files(tmp_path)) == 1
    assert (open_files(tmp_path), errors) == ([], [])


def test_what_is_closed_leaves_no_name(
    tmp_path: Path, writer: CacheWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stalled(writer, monkeypatch):
        writer.close()
        assert list(tmp_path.iterdir()) == []


def test_a_write_after_the_end_comes_into_no_file(
    tmp_path: Path, writer: CacheWriter, errors: list[OSError]
) -> None:
    writer.close()
    number = os.open(tmp_path / "another", os.O_RDWR | os.O_CREAT)  # most likely the same number
    writer.write(0, CONTENT)
    os.close(number)
    assert ((tmp_path / "another").read_bytes(), errors) == (b"", [])
