"""The node's cache: what is kept, read, dropped and given up."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.errors import (
    AccessDenied,
    ChecksumMismatch,
    ConfigurationError,
    Unavailable,
)
from shardedmodel_runtime.loading.cache import NodeCache
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader
from shardedmodel_runtime.storage.base import ObjectInfo
from shardedmodel_runtime.storage.local import LocalStore
from tests.builders.cache import assert_loaded, entries, fail, hashes, load
from tests.builders.rank_layout import Layout


def test_a_load_leaves_its_objects_in_the_cache(layout: Layout, folder: Path) -> None:
    shard = load(layout, folder)
    assert_loaded(shard, layout)
    assert entries(folder) == hashes(layout, 0)
    assert shard.report.cache_hits == 0


def test_a_rank_that_starts_again_reads_nothing_from_the_store(
    layout: Layout, folder: Path
) -> None:
    load(layout, folder)
    shard = load(layout, folder)
    assert_loaded(shard, layout)
    assert (shard.report.bytes_read, shard.report.cache_bytes) == (0, shard.report.bytes)


def test_a_cache_that_may_only_be_read_is_read(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(layout, folder)
    for call in ("utime", "replace", "posix_fallocate"):
        monkeypatch.setattr(os, call, fail(errno.EROFS))
    report = load(layout, folder).report
    assert (report.bytes_read, report.cache_error) == (0, "")


@pytest.mark.parametrize("map_files", [True, False])
def test_an_entry_that_a_peer_begins_to_use_is_read_on(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch, map_files: bool
) -> None:
    load(layout, folder)
    peer, info = NodeCache(folder, None), LocalStore.info

    def used_meanwhile(self: LocalStore, key: str, state: os.stat_result) -> ObjectInfo:
        for item in layout.manifest.objects_of(0):
            peer.holds(item)
        return info(self, key, state)

    monkeypatch.setattr(LocalStore, "info", used_meanwhile)
    assert load(layout, folder, map_files=map_files).report.bytes_read == 0


def test_ranks_of_a_node_read_a_common_object_once(layout: Layout, folder: Path) -> None:
    load(layout, folder, 0)
    shard = load(layout, folder, 1)
    own, _common = layout.manifest.objects_of(1)
    assert_loaded(shard, layout)
    assert shard.report.bytes_read == own.bytes


def test_a_corrupt_entry_is_dropped_and_read_again(layout: Layout, folder: Path) -> None:
    load(layout, folder)
    item = layout.manifest.objects_of(0)[0]
    entry = folder / item.sha256
    entry.write_bytes(bytes(item.bytes))
    shard = load(layout, folder)
    assert_loaded(shard, layout)
    assert shard.report.bytes_read == item.bytes
    assert entry.read_bytes() == (layout.folder / item.key).read_bytes()


def test_the_progress_of_a_corrupt_entry_does_not_count(layout: Layout, folder: Path) -> None:
    load(layout, folder)
    item = layout.manifest.objects_of(0)[0]
    entry = folder / item.sha256
    entry.write_bytes(entry.read_bytes()[:-1] + b"\xff")
    config = ModelLoadConfig(layout=layout.uri, world_size=2, device="cpu", cache=str(folder))
    loader = DistributedCheckpointLoader(config)
    loader.load(layout.manifest)
    assert loader.progress.bytes_done == layout.manifest.rank_bytes(0)


def test_an_entry_of_another_size_is_no_entry(layout: Layout, folder: Path) -> None:
    load(layout, folder)
    item = layout.manifest.objects_of(0)[0]
    os.truncate(folder / item.sha256, 10)
    shard = load(layout, folder)
    assert shard.report.bytes_read == item.bytes


def test_a_wrong_object_never_becomes_an_entry(layout: Layout, folder: Path) -> None:
    path = layout.object_path(0)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ChecksumMismatch):
        load(layout, folder)
    assert layout.manifest.objects_of(0)[0].sha256 not in entries(folder)
    assert [p.name for p in folder.iterdir() if p.name.startswith(".tmp-")] == []


def test_what_came_whole_stays_when_the_load_fails_later(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, common = layout.manifest.objects_of(0)
    cache, read_range = NodeCache(folder, None), LocalStore.read_range

    def until_the_other_came(self: LocalStore, key: str, *rest: Any, **values: Any) -> None:
        if key == own.key:
            with cache.lock(common, time.monotonic() + 30) as got:
                assert got
            raise AccessDenied("no longer allowed")
        read_range(self, key, *rest, **values)

    monkeypatch.setattr(LocalStore, "read_range", until_the_other_came)
    with pytest.raises(AccessDenied):
        load(layout, folder, map_files=False)
    assert entries(folder) == {common.sha256}


def test_a_peer_does_not_wait_for_what_has_no_room(layout: Layout, folder: Path) -> None:
    _own, common = layout.manifest.objects_of(0)
    cache = NodeCache(folder, common.bytes)
    full = NodeCache(folder, None)
    with full.writer(common) as theirs:
        assert theirs is not None
        with cache.lock(common, 0.0) as release:
            assert release
            with cache.writer(common, release) as writer, full.lock(common, 0.0) as got:
                assert (writer, bool(got)) == (None, True)


def test_the_least_recently_used_entries_give_way(layout: Layout, folder: Path) -> None:
    load(layout, folder, 0)
    own, common = layout.manifest.objects_of(0)
    os.utime(folder / own.sha256, (1, 1))
    other = layout.manifest.objects_of(1)[0]
    load(layout, folder, 1, cache_bytes=common.bytes + other.bytes)
    assert entries(folder) == {common.sha256, other.sha256}


def test_objects_that_do_not_fit_together_are_not_kept_together(
    layout: Layout, folder: Path
) -> None:
    own, common = layout.manifest.objects_of(0)
    limit = own.bytes + common.bytes - 1
    load(layout, folder, cache_bytes=limit)
    assert len(entries(folder)) == 1


def test_a_file_system_without_locks_means_no_cache(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", fail(errno.ENOLCK))
    shard = load(layout, folder)
    assert_loaded(shard, layout)
    assert "No locks available; loading goes on without it" in shard.report.cache_error


def test_an_object_beyond_the_limit_is_not_kept(layout: Layout, folder: Path) -> None:
    shard = load(layout, folder, cache_bytes=1)
    assert_loaded(shard, layout)
    assert entries(folder) == set()
    assert shard.report.cache_error == ""


def test_a_cache_that_is_too_small_for_every_object_says_so_once(
    layout: Layout, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [item.bytes for item in layout.manifest.objects_of(0)]
    config = ModelLoadConfig(
        layout=layout.uri,
        world_size=2,
        device="cpu",
        cache=str(folder),
        cache_bytes=min(sizes) - 1,
    )
    loader = DistributedCheckpointLoader(config)
    for _ in range(2):
        loader.load(layout.manifest)
    assert caplog.messages == [
        f"cache_bytes: {min(sizes) - 1}: nothing is kept, as the smallest of this rank's objects "
        f"has {min(sizes)} bytes; give the cache room for all of them, {sum(sizes)} bytes"
    ]


def test_a_cache_with_room_for_one_object_says_nothing(
    layout: Layout, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    smallest = min(item.bytes for item in layout.manifest.objects_of(0))
    load(layout, folder, cache_bytes=smallest)
    assert caplog.messages == []


def test_an_object_beyond_the_limit_is_waited_for_by_nobody(layout: Layout, folder: Path) -> None:
    cache = NodeCache(folder, None)
    _own, common = layout.manifest.objects_of(1)
    with cache.lock(common, 0.0) as got:
        assert got
        shard = load(layout, folder, 1, cache_bytes=common.bytes - 1)
    assert_loaded(shard, layout)


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "replace"])
def test_a_full_disk_means_no_cache_and_says_so(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(os, call, fail(errno.ENOSPC))
    shard = load(layout, folder)
    assert_loaded(shard, layout)
    assert entries(folder) == set()
    assert "No space left on device; loading goes on without it" in shard.report.cache_error


class HangingEntries:
    """Lets reads of the cache's entries hang; those of the layout go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, layout: Layout) -> None:
        self.answers = threading.Event()
        self._entries = hashes(layout, 0)
        self._read_range = LocalStore.read_range
        read = self._read
        monkeypatch.setattr(LocalStore, "read_range", lambda *args, **more: read(*args, **more))

    def _read(self, store: LocalStore, key: str, *rest: Any, **values: Any) -> None:
        if key in self._entries:
            self.answers.wait(60)
        self._read_range(store, key, *rest, **values)


def test_a_disk_that_hangs_is_given_up_for_the_store(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(layout, folder)
    entries_hang = HangingEntries(monkeypatch, layout)
    shard = load(layout, folder, map_files=False, deadline_seconds=1.0)
    entries_hang.answers.set()
    assert_loaded(shard, layout)
    assert shard.report.cache_hits == 0
    assert "its disk did not answer in time" in shard.report.cache_error


def test_memory_into_which_a_read_hangs_takes_nothing_from_the_store(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = load(layout, folder)
    entries_hang = HangingEntries(monkeypatch, layout)
    config = ModelLoadConfig(
        layout=layout.uri, world_size=2, device="cpu", cache=str(folder), deadline_seconds=0.5
    )
    with pytest.raises(Unavailable, match="did not end within its deadline"):
        DistributedCheckpointLoader(config).load(layout.manifest, into=held)
    entries_hang.answers.set()


def test_what_is_not_verified_is_not_kept() -> None:
    with pytest.raises(ConfigurationError, match="cache needs verify"):
        ModelLoadConfig.parse({"layout": "file:///layout", "cache": "/cache", "verify": False})


def test_a_size_without_a_cache_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cache_bytes is the size of a cache"):
        ModelLoadConfig.parse({"layout": "file:///layout", "cache_bytes": 1})


def test_a_relative_cache_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cache: 'cache'"):
        ModelLoadConfig.parse({"layout": "file:///layout", "cache": "cache"})
