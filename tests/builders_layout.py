"""Small layouts: checkpoints cut into a folder, and what tests need to look at them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.report import ShardSummary
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.opening import open_store
from tests.builders_checkpoint import (
    bert_config,
    bert_shapes,
    llama_config,
    llama_shapes,
    write_checkpoint,
)

Open = Callable[[str], ObjectStore]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk and the bytes of its tensors."""

    uri: str
    tensors: dict[str, bytes]

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(len(data) for data in self.tensors.values())

    def plan(self, tensor: int) -> tuple[CheckpointMetadata, ShardingPlan]:
        """Read the headers and plan."""
        with open_store(self.uri) as store:
            metadata = CheckpointMetadata.read(store)
        return metadata, WeightDistributor(Parallelism(tensor)).plan(metadata)


def make_checkpoint(folder: Path, family: str = "llama", **options: Any) -> Checkpoint:
    """Write a small checkpoint; ``family`` is ``llama`` (grouped-query, bf16) or ``bert``."""
    if family == "llama":
        config = llama_config(**options.pop("config", {}))
        shapes, dtype = llama_shapes(config), "BF16"
    else:
        config = bert_config(**options.pop("config", {}))
        shapes, dtype = bert_shapes(config), "F32"
    tensors = write_checkpoint(folder, config, shapes, dtype=dtype, **options)
    return Checkpoint(
        folder.as_uri(), {name: array.tobytes() for name, (_, array) in tensors.items()}
    )


def shard(
    source: str, storage: str, tensor: int, open_any: Open = open_store
) -> tuple[ShardSummary, Manifest, str]:
    """Run the Job.

    Returns:
        Its summary, the manifest, and the layout's URI.
    """
    request = ShardRequest(source, storage, Parallelism(tensor))
    summary = ShardJob(request, open_any, open_any).run()
    uri = f"{storage}/{summary.layout_hash}"
    with open_any(uri) as store:
        return summary, read_manifest(store), uri


def missing_source_bytes(manifest: Manifest, finished: Collection[str]) -> int:
    """What has to be read of a source for the objects that are not among ``finished``.

    Of a tensor that is cut along its first dimension, the missing ranks' rows; of another, all.
    """
    missing = [item for item in manifest.objects if item.key not in finished]
    needed = {placed.name: 0 for item in missing for placed in manifest.placed(item)}
    for item in missing:
        for placed in manifest.placed(item):
            by_rows = all(axis.dim == 0 for axis in placed.cut.axes)
            needed[placed.name] += placed.nbytes if by_rows else placed.cut.nbytes
    return sum(min(size, manifest.tensors[name].nbytes) for name, size in needed.items())
