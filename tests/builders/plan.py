"""Checkpoints that are headers alone, and the way of one tensor through a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shardedmodel_runtime.checkpoint import CheckpointMetadata, SourceTensor
from shardedmodel_runtime.formats.dtypes import tensor_bytes
from shardedmodel_runtime.formats.hf import parse_config
from shardedmodel_runtime.layout.cutting import TensorCutter
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.manifest_content import LayoutObject, ManifestSource
from shardedmodel_runtime.layout.objects import plan_objects
from shardedmodel_runtime.layout.reading import row_cut, share_of, tensor_pieces
from shardedmodel_runtime.layout.recombine import HeldPiece, recombine_tensor
from shardedmodel_runtime.layout.saver import make_manifest
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.sharding.rules import Rule

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape | tuple[str, Shape]]
"""Shapes by name; a dtype before a shape where it is not BF16."""


def headers(config: Mapping[str, Any], shapes: Shapes) -> CheckpointMetadata:
    """A checkpoint of one file, without its weights."""
    tensors: dict[str, SourceTensor] = {}
    position = 0
    for name, described in shapes.items():
        dtype, shape = _described(described)
        end = position + tensor_bytes(dtype, shape)
        tensors[name] = SourceTensor(name, dtype, shape, "model.safetensors", position, end)
        position = end
    return CheckpointMetadata(parse_config(json.dumps(config).encode()), (), (), tensors)


def _described(described: Shape | tuple[str, Shape]) -> tuple[str, Shape]:
    match described:
        case (str(dtype), tuple(shape)):
            return dtype, shape
        case _:
            return "BF16", described


def plan_of(
    config: Mapping[str, Any],
    shapes: Shapes,
    parallelism: Parallelism,
    rules: Sequence[Rule] = (),
    **options: Any,
) -> ShardingPlan:
    """Plan a checkpoint of headers."""
    distributor = WeightDistributor(parallelism, rules, **options)
    return distributor.plan(headers(config, shapes))


def manifest_of(plan: ShardingPlan) -> Manifest:
    """The manifest of a plan, proven; checksums are those of nothing."""
    objects = [
        LayoutObject(
            key=planned.key,
            ranks=list(planned.ranks),
            bytes=planned.size,
            sha256="0" * 64,
            blocks=["0" * 32] * -(-planned.size // 2**24),
            data_start=planned.data_start,
            tensors=list(planned.tensor_ranges),
        )
        for planned in plan_objects(plan)
    ]
    manifest = make_manifest(plan, "0" * 20, ManifestSource(uri="file:///x", objects=[]), objects)
    return Manifest.parse(manifest.to_bytes())


def random_bytes(cut: TensorCut, seed: int = 0) -> bytes:
    """Random bits of a tensor as the source has it, NaN payloads and all."""
    size = tensor_bytes(cut.cast_from or cut.dtype, cut.shape)
    return np.random.default_rng(seed).bytes(size)


def cut_bytes(
    cut: TensorCut, parallelism: Parallelism, data: bytes, chunk_bytes: int = 64
) -> dict[int, bytes]:
    """What each rank that holds a tensor receives of its bytes, in one pass."""
    places = [
        place for place in parallelism.coordinates() if cut.is_held_by(place.pipeline, place.expert)
    ]
    received = {place.rank: bytearray() for place in places}
    shares = {place.rank: share_of(cut, place.tensor, place.expert) for place in places}
    rows = row_cut(cut)
    cutter = TensorCutter(rows, [(shares[rank], received[rank].extend) for rank in received])
    for piece in tensor_pieces("w", rows, chunk_bytes, list(shares.values())):
        cutter.take(piece, memoryview(data)[piece.start : piece.stop])
    cutter.finish()
    return {rank: bytes(held) for rank, held in received.items()}


def recombined(cut: TensorCut, parallelism: Parallelism, held: Mapping[int, bytes]) -> bytes:
    """The tensor again, from what ranks hold of it."""
    places = {rank: parallelism.coordinate(rank) for rank in held}
    pieces = [
        HeldPiece(rank, share_of(cut, place.tensor, place.expert), held[rank])
        for rank, place in places.items()
    ]
    return bytes(recombine_tensor("w", cut, pieces))
