"""A pod's folder in memory: its own, bounded, and gone with the pod."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from shardedmodel_runtime.rank.options import RankOptions
from shardedmodel_runtime.rank.shared_memory import (
    BYTES_PER_RANK,
    OWNER,
    PREFIX,
    SharedMemory,
    share,
)


class Usage(NamedTuple):
    free: int


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_each_pod_has_a_folder_that_is_gone_after_it(tmp_path: Path) -> None:
    one, other = SharedMemory(tmp_path), SharedMemory(tmp_path)
    assert one.folder != other.folder
    one.remove()
    assert names(tmp_path) == [other.folder.name]
    other.remove()
    other.remove()
    assert names(tmp_path) == []


def test_nobody_else_may_look_into_it(tmp_path: Path) -> None:
    memory = SharedMemory(tmp_path)
    assert memory.folder.stat().st_mode & 0o077 == 0
    memory.remove()


def test_what_a_killed_pod_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / f"{PREFIX}left"
    left.mkdir()
    (left / OWNER).touch()
    (left / "entry").write_bytes(b"x")
    memory = SharedMemory(tmp_path)
    assert names(tmp_path) == [memory.folder.name]
    memory.remove()


def test_what_is_somebody_elses_stays(tmp_path: Path) -> None:
    (tmp_path / "shardedmodel-notes").mkdir()
    (tmp_path / "sem.x").touch()
    SharedMemory(tmp_path).remove()
    assert names(tmp_path) == ["sem.x", "shardedmodel-notes"]


@pytest.mark.parametrize(
    ("free", "limit"),
    [(BYTES_PER_RANK * 100, 4 * BYTES_PER_RANK), (1000, 500), (0, 1)],
    ids=["much room", "little room", "none"],
)
def test_it_takes_half_of_the_room_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, limit: int
) -> None:
    memory = SharedMemory(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(free))
    assert memory.limit(4) == limit
    memory.remove()


def test_without_memory_as_a_file_system_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        SharedMemory(tmp_path / "none")


OPTIONS = RankOptions(layout="s3://shards/0123abcd", world_size=8, local_ranks=4)


def test_ranks_of_a_pod_are_told_where_they_share_and_with_whom(tmp_path: Path) -> None:
    options, memory = share(OPTIONS, 4, tmp_path)
    assert memory is not None
    config = options.load_config(rank=5, local_rank=1)
    assert (config.cache, config.cache_peers) == (str(memory.folder), (4, 5, 6, 7))
    assert config.cache_bytes == memory.limit(4)
    memory.remove()


@pytest.mark.parametrize(
    "options",
    [OPTIONS.model_copy(update={"local_ranks": 1}), OPTIONS.model_copy(update={"cache": "/c"})],
    ids=["alone", "with a cache"],
)
def test_who_is_alone_or_has_a_cache_needs_none(options: RankOptions, tmp_path: Path) -> None:
    assert share(options, 0, tmp_path) == (options, None)


def test_ranks_load_without_it_where_there_is_no_such_file_system(tmp_path: Path) -> None:
    assert share(OPTIONS, 0, tmp_path / "none") == (OPTIONS, None)
