"""From a sharding plan to the objects of a layout: what lies where, before a byte is read.

Every object's size is known from the plan alone. Tensors lie by falling alignment and then in
the source's order, so that each is naturally aligned without holes, and so that one pass over
the source in that order writes every object front to back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shardedmodel_runtime.formats.dtypes import alignment
from shardedmodel_runtime.formats.safetensors import build_header
from shardedmodel_runtime.layout.manifest import PlacedTensor
from shardedmodel_runtime.naming import COMMON_FOLDER, part_key, rank_folder
from shardedmodel_runtime.sharding.plan import ShardingPlan, TensorCut

MAX_OBJECT_BYTES = 40 * 1024**3
"""Where a rank's tensors go on in a second object. A multipart upload has at most 10,000 parts
(S3 user guide, "Amazon S3 multipart upload limits"), of 5 MiB where a budget is shared by many
objects: 48.8 GiB."""

HEADER_METADATA = {"format": "pt"}
"""What transformers looks for in a safetensors file before it opens it."""


@dataclass(frozen=True, slots=True)
class PlannedObject:
    """One object that will be written.

    Args:
        key: relative to the layout.
        ranks: the ranks that load it.
        header: the safetensors header with its length prefix, padded: ``data_start`` bytes.
        tensors: what it holds, in the order of its bytes.
    """

    key: str
    ranks: tuple[int, ...]
    header: bytes
    tensors: dict[str, PlacedTensor]

    @property
    def data_start(self) -> int:
        """Where the first tensor begins: the header's length."""
        return len(self.header)

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.data_start + sum(tensor.nbytes for tensor in self.tensors.values())


def writing_order(cuts: Iterable[TensorCut]) -> list[TensorCut]:
    """Order tensors as they lie in every object: by falling alignment, then as they came."""
    return sorted(cuts, key=lambda cut: -alignment(cut.dtype))


def plan_objects(
    plan: ShardingPlan, max_object_bytes: int = MAX_OBJECT_BYTES
) -> list[PlannedObject]:
    """Lay a plan's tensors out in objects: each rank's own, then the common ones.

    Args:
        plan: how each tensor is cut.
        max_object_bytes: tensors beyond it go to a next object; a single tensor may exceed it.
    """
    ordered = writing_order(plan.cuts.values())
    split = [cut for cut in ordered if cut.dim is not None]
    whole = [cut for cut in ordered if cut.dim is None]
    planned: list[PlannedObject] = []
    for place in plan.parallelism.coordinates():
        pieces = [(cut, place.tensor) for cut in split]
        folder = rank_folder(place, plan.parallelism)
        planned += _fill_folder(folder, (place.rank,), pieces, max_object_bytes)
    everyone = tuple(range(plan.parallelism.world_size))
    planned += _fill_folder(COMMON_FOLDER, everyone, [(cut, 0) for cut in whole], max_object_bytes)
    return planned


def _fill_folder(
    folder: str,
    ranks: tuple[int, ...],
    pieces: Sequence[tuple[TensorCut, int]],
    max_object_bytes: int,
) -> list[PlannedObject]:
    """Spread the pieces that the same ranks load over as few objects as their size allows."""
    objects: list[PlannedObject] = []
    current: list[tuple[TensorCut, int]] = []
    filled = 0
    for cut, tensor_rank in pieces:
        size = cut.local_bytes(tensor_rank)
        if current and filled + size > max_object_bytes:
            objects.append(_make_object(part_key(folder, len(objects)), ranks, current))
            current, filled = [], 0
        current.append((cut, tensor_rank))
        filled += size
    if current:
        objects.append(_make_object(part_key(folder, len(objects)), ranks, current))
    return objects


def _make_object(
    key: str, ranks: tuple[int, ...], pieces: Sequence[tuple[TensorCut, int]]
) -> PlannedObject:
    tensors: dict[str, PlacedTensor] = {}
    position = 0
    for cut, tensor_rank in pieces:
        shape = cut.local_shape(tensor_rank)
        end = position + cut.local_bytes(tensor_rank)
        tensors[cut.name] = PlacedTensor(
            shape=list(shape),
            start=position,
            end=end,
            ranges=[] if cut.dim is None else list(cut.ranges[tensor_rank]),
            pad=0 if cut.dim is None else cut.pad[tensor_rank],
        )
        position = end
    entries = ((cut.name, cut.dtype, cut.local_shape(rank)) for cut, rank in pieces)
    return PlannedObject(key, ranks, build_header(entries, HEADER_METADATA), tensors)
