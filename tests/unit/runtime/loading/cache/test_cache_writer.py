"""One entry of the node's cache on its way."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def no_space(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def stalled(
    writer: CacheWriter, monkeypatch: pytest.MonkeyPatch, part: memoryview = CONTENT
) -> Iterator[threading.Thread]:
    """Write in a thread to a disk that does not answer meanwhile."""
    began, go_on = threading.Event(), threading.Event()
    pwrite = os.pwrite

    def slow(file: int, data: memoryview, offset: int) -> int:
        began.set()
        assert go_on.wait(30)
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    thread = threading.Thread(target=writer.write, args=(0, part), daemon=True)
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


def test_an_entry_appears_with_its_last_byte(tmp_path: Path, writer: CacheWriter) -> None:
    entry = tmp_path / "entry"
    writer.write(SIZE // 2, CONTENT[SIZE // 2 :])
    assert not entry.exists()
    writer.write(0, CONTENT[: SIZE // 2])
    assert entry.read_bytes() == CONTENT
    writer.close()


def test_an_entry_does_not_appear_while_a_part_is_being_written(
    tmp_path: Path, writer: CacheWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stalled(writer, monkeypatch, CONTENT[: SIZE // 2]):
        monkeypatch.undo()
        writer.write(SIZE // 2, CONTENT[SIZE // 2 :])
        assert not (tmp_path / "entry").exists()
    assert (tmp_path / "entry").read_bytes() == CONTENT
    writer.close()


def test_an_entry_of_which_a_part_could_not_be_written_does_not_appear(
    tmp_path: Path, writer: CacheWriter, errors: list[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_space)
        writer.write(0, CONTENT[: SIZE // 2])
    writer.write(SIZE // 2, CONTENT[SIZE // 2 :])
    writer.write(0, CONTENT[: SIZE // 2])
    assert ((tmp_path / "entry").exists(), len(errors)) == (False, 1)
    writer.close()


@pytest.mark.parametrize("call", ["pwrite", "replace"])
def test_who_waits_is_told_that_there_will_be_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    told = threading.Event()
    writer = CacheWriter(tmp_path / "entry", SIZE, lambda error: None, told.set)
    monkeypatch.setattr(os, call, no_space)
    writer.write(0, CONTENT)
    assert told.is_set()
    writer.close()


def test_who_waits_is_told_when_the_entry_is_there(tmp_path: Path) -> None:
    there: list[bool] = []
    entry = tmp_path / "entry"
    writer = CacheWriter(entry, SIZE, lambda error: None, lambda: there.append(entry.exists()))
    writer.write(0, CONTENT)
    writer.close()
    assert there == [True]


def test_an_end_that_overtakes_the_last_byte_is_no_trouble(
    tmp_path: Path, writer: CacheWriter, errors: list[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def late(source: Path, target: Path) -> None:
        writer.close()
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    writer.write(0, CONTENT)
    assert (list(tmp_path.iterdir()), open_files(tmp_path), errors) == ([], [], [])
