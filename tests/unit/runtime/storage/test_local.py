from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.errors import (
    AccessDenied,
    ConfigurationError,
    NotFound,
    SourceChanged,
    StorageError,
    Unavailable,
)
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.uri import parse_uri


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(parse_uri(tmp_path.as_uri()))


def read_span(
    store: LocalStore, key: str, start: int, size: int, digest: str | None = None
) -> bytes:
    into = bytearray(size)
    store.read_range(key, start, memoryview(into), digest=digest)
    return bytes(into)


def test_a_range_is_read_exactly(store: LocalStore) -> None:
    store.write("a", b"0123456789")
    assert read_span(store, "a", 3, 4) == b"3456"


def test_bytes_are_counted_exactly(store: LocalStore) -> None:
    store.write("a", b"0123456789")
    read_span(store, "a", 0, 4)
    read_span(store, "a", 4, 3)
    assert store.bytes_read == 7


def test_a_range_beyond_the_end_is_refused_with_the_size(store: LocalStore) -> None:
    store.write("a", b"01234")
    with pytest.raises(StorageError, match="ends at byte 5; bytes up to 7"):
        read_span(store, "a", 3, 4)


@pytest.mark.parametrize(("limit", "expected"), [(0, b""), (3, b"012"), (99, b"01234")])
def test_a_beginning_comes_with_its_description(
    store: LocalStore, limit: int, expected: bytes
) -> None:
    store.write("a", b"01234")
    assert store.read_head("a", limit) == (store.describe("a"), expected)


def test_a_read_that_a_server_s_absence_breaks_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(parse_uri(tmp_path.as_uri()), RetryPolicy(base_seconds=0.0))
    store.write("a", b"01234")
    preadv, answers = os.preadv, [errno.ESTALE, errno.EIO]

    def flaky(*arguments: Any) -> int:
        if answers:
            raise OSError(answers.pop(), "server away")
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", flaky)
    assert read_span(store, "a", 0, 5) == b"01234"
    assert (store.retries, store.bytes_read) == (2, 5)


def test_a_file_that_changes_while_it_is_read_is_refused(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a", b"01234")
    preadv = os.preadv

    def change(*arguments: Any) -> int:
        os.utime(tmp_path / "a", ns=(1, 1))
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", change)
    with pytest.raises(SourceChanged):
        read_span(store, "a", 0, 5)


def test_a_file_of_another_state_is_refused(store: LocalStore, tmp_path: Path) -> None:
    store.write("a", b"01234")
    digest = store.describe("a").digest
    os.utime(tmp_path / "a", ns=(1, 1))
    with pytest.raises(SourceChanged):
        read_span(store, "a", 0, 4, digest)


def test_a_replaced_file_has_another_digest(store: LocalStore) -> None:
    store.write("a", b"01234")
    before = store.describe("a").digest
    store.write("a", b"012345")
    assert store.describe("a").digest != before


def test_what_is_there_stays_when_it_must_be_absent(store: LocalStore) -> None:
    assert store.write("a", b"first", if_absent=True)
    assert not store.write("a", b"second", if_absent=True)
    assert store.read("a", limit=10) == b"first"


@pytest.mark.parametrize("taken", [False, True])
def test_absence_is_respected_without_hard_links(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    if taken:
        store.write("a", b"first")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    assert store.write("a", b"second", if_absent=True) is not taken
    assert store.read("a", limit=10) == (b"first" if taken else b"second")


def test_a_failing_link_is_an_error(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StorageError, match="No space left"):
        store.write("a", b"x", if_absent=True)


def test_a_small_object_that_is_large_is_refused(store: LocalStore) -> None:
    store.write("a", b"01234")
    with pytest.raises(StorageError, match="5 bytes; at most 4"):
        store.read("a", limit=4)


def test_parts_may_come_in_any_order(store: LocalStore) -> None:
    writer = store.open_writer("deep/a", 10, 4)
    for index, part in ((2, b"89"), (0, b"0123"), (1, b"4567")):
        writer.write_part(index, part)
    writer.commit()
    assert store.read("deep/a", limit=10) == b"0123456789"


def test_an_object_appears_when_it_is_committed(store: LocalStore) -> None:
    writer = store.open_writer("a", 2, 2)
    writer.write_part(0, b"01")
    with pytest.raises(NotFound):
        store.describe("a")
    writer.abort()


def test_an_aborted_object_leaves_nothing(store: LocalStore, tmp_path: Path) -> None:
    writer = store.open_writer("a", 4, 2)
    writer.write_part(0, b"01")
    writer.abort()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_an_object_is_dropped_while_a_part_of_it_is_written(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other, write = store.open_writer("a", 4, 2), tmp_path / "other", os.pwrite

    def abort_first(file: int, data: memoryview, offset: int) -> int:
        writer.abort()
        other.write_bytes(b"xx")  # would get the number of a file that was closed
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", abort_first)
    writer.write_part(0, b"01")
    with pytest.raises(StorageError):
        writer.write_part(1, b"23")
    assert list(tmp_path.iterdir()) == [other]
    assert other.read_bytes() == b"xx"


def test_a_folder_is_listed_without_what_is_on_its_way(store: LocalStore) -> None:
    for key in ("b", "a", "sub/c"):
        store.write(key, b"x")
    writer = store.open_writer("d", 2, 2)
    assert [info.key for info in store.list()] == ["a", "b"]
    assert [info.key for info in store.list("sub/")] == ["sub/c"]
    writer.abort()


def test_folders_are_named_without_files(store: LocalStore) -> None:
    for key in ("b", "sub/c", "sub/deeper/d"):
        store.write(key, b"x")
    assert store.folders() == ["sub"]


def test_a_folder_that_is_not_there_has_no_folders(tmp_path: Path) -> None:
    assert LocalStore(parse_uri((tmp_path / "none").as_uri())).folders() == []


def test_what_a_deletion_leaves_empty_goes_with_it(tmp_path: Path) -> None:
    store = LocalStore(parse_uri(f"{tmp_path.as_uri()}/layout"))
    for key in ("a/b/one", "a/two"):
        store.write(key, b"x")
    store.delete("a/b/one")
    assert [path.name for path in (tmp_path / "layout" / "a").iterdir()] == ["two"]
    store.delete("a/two")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_deletion_takes_from_a_writer_is_made_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir
    taken: list[Path] = []

    def mkdir(path: Path, **options: Any) -> None:
        make(path, **options)
        if not taken:
            taken.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    store.write("folder/object", b"x")
    assert (taken, read_span(store, "folder/object", 0, 1)) == ([store.root / "folder"], b"x")


def test_a_file_in_place_of_a_folder_above_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = LocalStore(parse_uri(f"{tmp_path.as_uri()}/file/layout"))
    with pytest.raises(NotFound, match=f"{tmp_path}/file is a file; name the folder"):
        store.write("object", b"x")


def test_deleting_twice_is_fine(store: LocalStore) -> None:
    store.write("a", b"x")
    store.delete("a")
    store.delete("a")
    with pytest.raises(NotFound):
        store.describe("a")


def test_a_missing_file_and_a_missing_folder_are_told_apart(
    store: LocalStore, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="the file does not exist"):
        store.describe("nope")
    gone = LocalStore(parse_uri((tmp_path / "gone").as_uri()))
    with pytest.raises(NotFound, match=f"the folder {tmp_path}/gone does not exist"):
        gone.describe("nope")


def test_a_folder_is_no_object(store: LocalStore) -> None:
    store.write("sub/c", b"x")
    with pytest.raises(NotFound, match="is not a file"):
        store.describe("sub")


@pytest.mark.parametrize("key", ["../a", "/a", "a/../b", "a//b", ".", "", "a\\b", "a\nb"])
def test_a_key_cannot_leave_the_store(store: LocalStore, key: str) -> None:
    with pytest.raises(ConfigurationError, match="plain relative path"):
        store.describe(key)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EACCES, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.ESTALE, Unavailable),
        (errno.ENAMETOOLONG, StorageError),
    ],
)
def test_the_systems_errors_become_ours(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[StorageError]
) -> None:
    def fail(path: Path) -> os.stat_result:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(error, match=os.strerror(number)) as caught:
        store.describe("a")
    assert type(caught.value) is error


def test_there_is_always_something_to_write_into(tmp_path: Path) -> None:
    store = LocalStore(parse_uri((tmp_path / "new").as_uri()))
    store.require_root()
    store.write("a", b"x")
    assert (tmp_path / "new" / "a").read_bytes() == b"x"
