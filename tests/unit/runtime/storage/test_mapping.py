"""Files as memory."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from shardedmodel_runtime.errors import NotFound, SourceChanged, StorageError, Unavailable
from shardedmodel_runtime.memory import Access
from shardedmodel_runtime.storage import mapping
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.mapping import MappedStore, can_map
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.uri import parse_uri

MOUNTS = """\
22 1 {disk} / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:99 / /mnt/models rw,relatime - nfs4 server:/models rw,vers=4.2
"""


@pytest.fixture
def files(tmp_path: Path) -> LocalStore:
    retry = RetryPolicy(attempts=2, sleep=lambda seconds: None)
    store = LocalStore(parse_uri(tmp_path.as_uri()), retry)
    store.write("a", b"0123456789")
    return store


def test_a_mapping_holds_the_bytes_of_the_file(files: LocalStore) -> None:
    with MappedStore(files) as store:
        mapped = store.map("a", 10)
        store.read_range("a", 3, memoryview(mapped)[3:7])
    assert mapped[:] == b"0123456789"


def test_what_is_brought_is_counted_where_other_reads_are(files: LocalStore) -> None:
    before = files.requests
    with MappedStore(files) as store:
        store.read_range("a", 3, memoryview(store.map("a", 10))[3:7])
    assert (files.requests - before, files.bytes_read) == (1, 4)


def test_writing_to_a_mapping_leaves_the_file_as_it_is(files: LocalStore) -> None:
    with MappedStore(files) as store:
        store.map("a", 10)[0] = 255
    assert files.read("a", limit=10) == b"0123456789"


def test_a_file_that_is_replaced_stays_what_it_was_in_the_mapping(files: LocalStore) -> None:
    with MappedStore(files) as store:
        mapped = store.map("a", 10)
        files.write("a", b"9876543210")
        store.read_range("a", 0, memoryview(mapped))
    assert mapped[:] == b"0123456789"


def test_a_file_that_changes_in_place_is_noticed(files: LocalStore) -> None:
    with MappedStore(files) as store:
        mapped = store.map("a", 10)
        os.utime(files.path("a"), ns=(1, 1))
        with pytest.raises(SourceChanged, match="changed while it was being read"):
            store.read_range("a", 0, memoryview(mapped))


def test_a_file_that_is_cut_short_in_place_has_changed_and_is_not_asked_for_again(
    files: LocalStore,
) -> None:
    size = 4 * mmap.PAGESIZE
    files.write("b", bytes(size))
    with MappedStore(files) as store:
        mapped = store.map("b", size)
        os.truncate(files.path("b"), mmap.PAGESIZE)
        with pytest.raises(SourceChanged, match="changed while it was being read"):
            store.read_range("b", 0, memoryview(mapped))
    assert files.retries == 0


def test_a_file_that_is_too_short_is_refused_before_it_is_mapped(files: LocalStore) -> None:
    with MappedStore(files) as store, pytest.raises(StorageError, match="ends at byte 10"):
        store.map("a", 11)


def test_a_file_that_is_not_there_is_named(files: LocalStore) -> None:
    with MappedStore(files) as store, pytest.raises(NotFound, match="/b: the file does not exist"):
        store.map("b", 1)


def test_pages_that_cannot_be_read_are_asked_for_again_and_then_named(
    files: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(memory: memoryview, access: Access) -> None:
        raise OSError(errno.EFAULT, "Bad address")

    monkeypatch.setattr(mapping, "populate", fail)
    with MappedStore(files) as store:
        mapped = store.map("a", 10)
        with pytest.raises(Unavailable, match=r"its pages cannot be read.*after 2 attempts"):
            store.read_range("a", 0, memoryview(mapped))
    assert files.retries == 1


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files lie on another file system than their folder, which is not the node's own."""
    monkeypatch.setattr(mapping, "_device_of", lambda folder: -1)
    monkeypatch.setattr(mapping, "NODE_FILE_SYSTEMS", frozenset())


@pytest.mark.usefixtures("_elsewhere")
def test_a_file_that_a_link_leads_to_elsewhere_is_read_instead_of_mapped(
    files: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(mapping, "populate")
    with MappedStore(files) as store:
        memory = store.map("a", 10)
        store.read_range("a", 3, memoryview(memory)[3:7])
    assert memory[:] == b"\0\0\x003456\0\0\0"


@pytest.mark.usefixtures("_elsewhere")
def test_a_file_elsewhere_that_changes_between_its_ranges_is_noticed(files: LocalStore) -> None:
    with MappedStore(files) as store:
        memory = store.map("a", 10)
        files.write("a", b"9876543210")
        os.utime(files.path("a"), ns=(1, 1))
        with pytest.raises(SourceChanged, match="changed while it was being read"):
            store.read_range("a", 0, memoryview(memory))


def test_a_file_elsewhere_on_the_node_is_mapped(
    files: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_device_of", lambda folder: -1)
    monkeypatch.setattr(mapping, "_is_of_node", lambda device: True)
    monkeypatch.delattr(LocalStore, "read_range")
    with MappedStore(files) as store:
        memory = store.map("a", 10)
        store.read_range("a", 0, memoryview(memory))
    assert memory[:] == b"0123456789"


def test_only_file_systems_of_the_node_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    disk = f"{os.major(device)}:{os.minor(device)}"
    monkeypatch.setattr(mapping, "can_populate", lambda: True)

    def with_mounts(text: str) -> bool:
        monkeypatch.setattr(Path, "read_text", lambda path: text)
        return can_map(tmp_path)

    assert with_mounts(MOUNTS.format(disk=disk))
    assert not with_mounts(MOUNTS.format(disk="0:1"))
    assert not with_mounts(MOUNTS.replace("0:99", disk).format(disk="0:1"))


def test_a_kernel_that_does_not_populate_maps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "can_populate", lambda: False)
    assert not can_map(tmp_path)


def test_what_is_no_file_is_not_waited_for(files: LocalStore) -> None:
    os.mkfifo(files.path("pipe"))
    with MappedStore(files) as store, pytest.raises(NotFound, match="pipe: is not a file"):
        store.map("pipe", 10)
