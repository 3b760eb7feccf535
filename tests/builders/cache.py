"""Loads of a small layout through a node's cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader
from shardedmodel_runtime.loading.shard import LoadedShard
from tests.builders.rank_layout import Layout, raw


def load(layout: Layout, folder: Path, rank: int = 0, **values: Any) -> LoadedShard:
    """Load one of two ranks through a cache."""
    config = ModelLoadConfig(
        layout=layout.uri, world_size=2, rank=rank, device="cpu", cache=str(folder), **values
    )
    return DistributedCheckpointLoader(config).load(layout.manifest)


def entries(folder: Path) -> set[str]:
    """Names of the entries."""
    return {path.name for path in folder.iterdir() if len(path.name) == 64}


def hashes(layout: Layout, rank: int) -> set[str]:
    """Names that a rank's objects have as entries."""
    return {item.sha256 for item in layout.manifest.objects_of(rank)}


def assert_loaded(shard: LoadedShard, layout: Layout) -> None:
    """Every tensor is there, to the byte."""
    expected = layout.expected[shard.rank]
    assert {name: raw(t) for name, t in shard.state_dict.items()} == {
        name: raw(t) for name, t in expected.items()
    }


def fail(number: int) -> Any:
    """A call of the system that fails with an error of this number."""

    def call(*arguments: Any, **values: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call
