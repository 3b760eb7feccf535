"""The node's cache between ranks: who fetches, and who waits for whom."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.loading import cache as cache_module
from shardedmodel_runtime.loading import gathering
from shardedmodel_runtime.loading.cache import NodeCache
from shardedmodel_runtime.loading.shard import LoadedShard
from tests.builders.cache import assert_loaded, entries, fail, load
from tests.builders.rank_layout import Layout


def test_what_peers_lock_is_no_program(layout: Layout, folder: Path) -> None:
    load(layout, folder, cache_bytes=2**30)
    assert {path.stat().st_mode & 0o111 for path in folder.iterdir()} == {0}


def test_a_peer_that_is_fetching_an_object_is_waited_for(layout: Layout, folder: Path) -> None:
    cache = NodeCache(folder, None)
    common = layout.manifest.objects_of(1)[1]
    shards: list[LoadedShard] = []
    waiting = threading.Thread(target=lambda: shards.append(load(layout, folder, 1)))
    with cache.lock(common, 0.0) as got:
        assert got
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        (folder / common.sha256).write_bytes((layout.folder / common.key).read_bytes())
    waiting.join()
    assert (shards[0].report.cache_hits, shards[0].report.cache_bytes) == (1, common.bytes)


def test_a_peer_that_dies_leaves_its_object_to_the_next(layout: Layout, folder: Path) -> None:
    cache = NodeCache(folder, None)
    common = layout.manifest.objects_of(1)[1]
    shards: list[LoadedShard] = []
    waiting = threading.Thread(target=lambda: shards.append(load(layout, folder, 1)))
    with cache.lock(common, 0.0):
        waiting.start()
    waiting.join()
    assert_loaded(shards[0], layout)
    assert common.sha256 in entries(folder)


def test_a_peer_that_hangs_is_not_waited_for_long(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "PEER_SECONDS", 0.1)
    cache = NodeCache(folder, None)
    common = layout.manifest.objects_of(0)[1]
    with cache.lock(common, 0.0):
        shard = load(layout, folder)
    assert_loaded(shard, layout)
    assert common.sha256 not in entries(folder)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Until when loads waited for locks that they did not just try."""
    untils: list[float] = []
    lock = NodeCache.lock

    def told(self: NodeCache, item: LayoutObject, wait_until: float) -> Any:
        if wait_until:
            untils.append(wait_until)
        return lock(self, item, wait_until)

    monkeypatch.setattr(NodeCache, "lock", told)
    return untils


def test_a_peer_that_hangs_is_waited_for_once_for_all_of_its_objects(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setattr(gathering, "PEER_SECONDS", 0.1)
    cache = NodeCache(folder, None)
    own, common = layout.manifest.objects_of(0)
    with cache.lock(own, 0.0), cache.lock(common, 0.0):
        shard = load(layout, folder)
    assert_loaded(shard, layout)
    assert (len(waits), len(set(waits))) == (2, 1)


def test_a_peer_whose_objects_come_is_waited_for_on(
    layout: Layout, folder: Path, waits: list[float]
) -> None:
    cache = NodeCache(folder, None)
    own, common = layout.manifest.objects_of(0)
    shards: list[LoadedShard] = []
    waiting = threading.Thread(target=lambda: shards.append(load(layout, folder)))
    with cache.lock(own, 0.0), cache.lock(common, 0.0):
        waiting.start()
        while waiting.is_alive() and not waits:
            time.sleep(0.01)
        for item in (own, common):
            (folder / item.sha256).write_bytes((layout.folder / item.key).read_bytes())
    waiting.join()
    assert shards[0].report.cache_hits == 2
    assert waits[1] > waits[0]


def test_a_peer_that_hangs_leaves_the_store_half_of_the_deadline(
    layout: Layout, folder: Path
) -> None:
    cache = NodeCache(folder, None)
    own, common = layout.manifest.objects_of(0)
    with cache.lock(common, 0.0):
        shard = load(layout, folder, deadline_seconds=4)
    assert_loaded(shard, layout)
    assert shard.report.bytes_read == own.bytes + common.bytes


# Ranks of one pod, which share only what several of them hold


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ranks 0 and 1 are told, in a world where every object is large."""
    monkeypatch.setattr(cache_module, "WORTH_SHARING_BYTES", 1)
    # Objects of a folder that can be mapped are shared already.
    return {"cache_peers": (0, 1), "map_files": False}


def test_peers_leave_each_other_what_both_hold_and_nothing_else(
    layout: Layout, folder: Path, sharing: dict[str, Any]
) -> None:
    own, common = layout.manifest.objects_of(0)
    assert load(layout, folder, 0, **sharing).report.bytes_read == own.bytes + common.bytes
    assert entries(folder) == {common.sha256}
    shard = load(layout, folder, 1, **sharing)
    assert_loaded(shard, layout)
    assert shard.report.bytes_read == layout.manifest.objects_of(1)[0].bytes


def test_what_is_small_is_not_waited_for(
    layout: Layout, folder: Path, sharing: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _own, common = layout.manifest.objects_of(0)
    monkeypatch.setattr(cache_module, "WORTH_SHARING_BYTES", common.bytes + 1)
    load(layout, folder, 0, **sharing)
    assert entries(folder) == set()


def test_what_no_other_peer_holds_is_not_left(
    layout: Layout, folder: Path, sharing: dict[str, Any]
) -> None:
    load(layout, folder, 0, **{**sharing, "cache_peers": (0, 7)})
    assert entries(folder) == set()


def test_files_that_are_mapped_are_not_copied_for_peers(
    layout: Layout, folder: Path, sharing: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "can_map", lambda root: True)
    assert_loaded(load(layout, folder, 0, **{**sharing, "map_files": True}), layout)
    assert entries(folder) == set()


def test_no_room_for_peers_is_no_trouble_to_tell(
    layout: Layout, folder: Path, sharing: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", fail(errno.ENOSPC))
    shard = load(layout, folder, 0, **sharing)
    assert_loaded(shard, layout)
    assert shard.report.cache_error == ""
