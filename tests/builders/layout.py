"""Small layouts: checkpoints cut into a folder, and what tests need to look at them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.layout.reading import share_of
from shardedmodel_runtime.layout.recombine import HeldPiece, recombine_tensor
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.report import ShardSummary
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.checkpoint import (
    bert_config,
    bert_shapes,
    llama_config,
    llama_shapes,
    moe_config,
    moe_shapes,
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
    """Write a small checkpoint.

    Args:
        folder: where.
        family: ``llama`` (grouped-query, bf16), ``bert``, or ``moe`` (of no known type; MOE_RULES
            cut it).
        options: of ``write_checkpoint``, and ``config`` with changes to the configuration.
    """
    make_config, make_shapes, dtype = FAMILIES[family]
    config = make_config(**options.pop("config", {}))
    tensors = write_checkpoint(folder, config, make_shapes(config), dtype=dtype, **options)
    return Checkpoint(
        folder.as_uri(), {name: array.tobytes() for name, (_, array) in tensors.items()}
    )


FAMILIES: dict[str, tuple[Any, Any, str]] = {
    "llama": (llama_config, llama_shapes, "BF16"),
    "bert": (bert_config, bert_shapes, "F32"),
    "moe": (moe_config, moe_shapes, "F32"),
}
"""Configuration, shapes and dtype of each."""


def shard(
    source: str,
    storage: str,
    degrees: int | Parallelism,
    open_any: Open = open_store,
    **options: Any,
) -> tuple[ShardSummary, Manifest, str]:
    """Run the Job for ``degrees`` ranks, or an int of tensor ranks; ``options`` of its request.

    Returns:
        Its summary, the manifest, and the layout's URI.
    """
    parallelism = Parallelism(degrees) if isinstance(degrees, int) else degrees
    request = ShardRequest(source, storage, parallelism, **options)
    summary = ShardJob(request, open_any, open_any).run()
    uri = f"{storage}/{summary.layout_hash}"
    with open_any(uri) as store:
        return summary, read_manifest(store), uri


def held_by_ranks(manifest: Manifest, folder: Path) -> dict[int, dict[str, bytes]]:
    """What each rank would hold, straight from the files."""
    held: dict[int, dict[str, bytes]] = {}
    for rank in range(manifest.world_size):
        held[rank] = {}
        for item in manifest.objects_of(rank):
            data = (folder / item.key).read_bytes()[item.data_start :]
            held[rank] |= {one.name: data[one.start : one.end] for one in manifest.placed(item)}
    return held


def recombine_ranks(
    manifest: Manifest, held: Mapping[int, Mapping[str, bytes]]
) -> dict[str, bytes]:
    """Put the tensors together from each rank's pieces, one of which fails if it is missing."""
    tensors: dict[str, bytes] = {}
    for name, cut in manifest.tensors.items():
        pieces = [
            HeldPiece(place.rank, share_of(cut, place.tensor, place.expert), held[place.rank][name])
            for place in manifest.degrees.coordinates()
            if cut.is_held_by(place.pipeline, place.expert)
        ]
        tensors[name] = bytes(recombine_tensor(name, cut, pieces))
    return tensors


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
