"""From a sharding plan to the objects of a layout: what lies where, before a byte is read.

Every object's size is known from the plan alone. Tensors lie by falling alignment and then in
the source's order, so that each is naturally aligned without holes, and so that one pass over
the source in that order writes every object front to back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shardedmodel_runtime.formats.safetensors import build_header
from shardedmodel_runtime.layout.parts import MIN_OBJECT_BYTES, split_into_parts
from shardedmodel_runtime.layout.placement import (
    PieceCache,
    PlacedTensor,
    place_tensors,
    ranges_of,
    writing_order,
)
from shardedmodel_runtime.naming import folder_of, part_key
from shardedmodel_runtime.sharding.cuts import Range, TensorCut
from shardedmodel_runtime.sharding.plan import ShardingPlan

HEADER_METADATA = {"format": "pt"}
"""What transformers looks for in a safetensors file before it opens it."""


@dataclass(frozen=True, slots=True)
class PlannedObject:
    """One object that will be written.

    Args:
        key: relative to the layout.
        ranks: the ranks that load it.
        tensor: the tensor rank whose pieces it holds; 0 where all of them hold the same.
        expert: the expert rank, likewise.
        header: the safetensors header with its length prefix, padded: ``data_start`` bytes.
        names: of the tensors in it, in the order of their bytes.
        tensor_ranges: the same tensors by their numbers in the checkpoint.
        size: bytes of the object.
    """

    key: str
    ranks: tuple[int, ...]
    tensor: int
    expert: int
    header: bytes
    names: tuple[str, ...]
    tensor_ranges: tuple[Range, ...]
    size: int

    @property
    def data_start(self) -> int:
        """Where the first tensor begins: the header's length."""
        return len(self.header)

    def placed(self, cuts: Mapping[str, TensorCut]) -> Iterator[PlacedTensor]:
        """Each piece in it, in the order of bytes; ``cuts`` are those of its plan."""
        tensors = ((name, cuts[name]) for name in self.names)
        return place_tensors(tensors, self.tensor, self.expert)


@dataclass(frozen=True, slots=True)
class _Spread:
    """Which ranks hold the same piece: the coordinates that such ranks have in common."""

    over_tensor: bool
    stages: tuple[int, ...] | None
    expert: int | None


def plan_objects(
    plan: ShardingPlan, min_object_bytes: int = MIN_OBJECT_BYTES
) -> list[PlannedObject]:
    """Lay a plan's tensors out in objects: those of few ranks first, the common ones last.

    Args:
        plan: how each tensor is cut.
        min_object_bytes: about the smallest part of a rank that has several.
    """
    numbers = {name: number for number, name in enumerate(plan.cuts)}
    planned = [
        item
        for spread, names in _sets(plan).items()
        for item in _SetPlanner(plan, spread, names, numbers, min_object_bytes).objects()
    ]
    return sorted(planned, key=lambda item: (len(item.ranks), item.ranks, item.key))


def _sets(plan: ShardingPlan) -> dict[_Spread, list[str]]:
    """The tensors of each folder but for the tensor rank, in the order of bytes."""
    distinct = {id(cut): cut for cut in plan.cuts.values()}
    spreads = {key: _spreads(plan, cut) for key, cut in distinct.items()}
    sets: dict[_Spread, list[str]] = {}
    for name in writing_order(plan.cuts):
        for spread in spreads[id(plan.cuts[name])]:
            sets.setdefault(spread, []).append(name)
    return sets


def _spreads(plan: ShardingPlan, cut: TensorCut) -> list[_Spread]:
    over_tensor = cut.axis("tensor") is not None
    experts: Sequence[int | None] = [cut.expert]
    if cut.axis("expert"):
        experts = range(plan.parallelism.expert)
    return [_Spread(over_tensor, cut.stages, expert) for expert in experts]


class _SetPlanner:
    """Plans the objects of one set of tensors, for each tensor rank that has its own pieces."""

    def __init__(
        self,
        plan: ShardingPlan,
        spread: _Spread,
        names: Sequence[str],
        numbers: Mapping[str, int],
        min_object_bytes: int,
    ) -> None:
        self._plan = plan
        self._spread = spread
        self._names = names
        self._numbers = numbers
        self._cuts = [plan.cuts[name] for name in names]
        first = PieceCache(0, spread.expert or 0)
        self._parts = split_into_parts([first(cut).nbytes for cut in self._cuts], min_object_bytes)
        self._distinct = list({id(cut): cut for cut in self._cuts}.values())
        self._headers: dict[object, tuple[bytes, tuple[str, ...], tuple[Range, ...]]] = {}

    def objects(self) -> Iterator[PlannedObject]:
        """The objects, tensor rank by tensor rank."""
        degree = self._plan.parallelism.tensor
        for tensor in range(degree) if self._spread.over_tensor else (None,):
            piece_of = PieceCache(tensor or 0, self._spread.expert or 0)
            sizes = [piece_of(cut).nbytes for cut in self._cuts]
            for part, (first, stop) in enumerate(self._parts):
                data = sum(sizes[first:stop])
                yield self._object(tensor, piece_of, part, first, stop, data)

    def _object(
        self, tensor: int | None, piece_of: PieceCache, part: int, first: int, stop: int, data: int
    ) -> PlannedObject:
        spread, parallelism = self._spread, self._plan.parallelism
        # Mostly all tensor ranks have equal shapes, and then one header serves them all.
        same = (first, stop, *(piece_of(cut).shape for cut in self._distinct))
        if same not in self._headers:
            self._headers[same] = self._describe(piece_of, first, stop)
        header, names, ranges = self._headers[same]
        return PlannedObject(
            key=part_key(folder_of(parallelism, tensor, spread.stages, spread.expert), part),
            ranks=parallelism.ranks_at(tensor, spread.stages, spread.expert),
            tensor=tensor or 0,
            expert=spread.expert or 0,
            header=header,
            names=names,
            tensor_ranges=ranges,
            size=len(header) + data,
        )

    def _describe(
        self, piece_of: PieceCache, first: int, stop: int
    ) -> tuple[bytes, tuple[str, ...], tuple[Range, ...]]:
        names, cuts = tuple(self._names[first:stop]), self._cuts[first:stop]
        entries = (
            (name, cut.dtype, piece_of(cut).shape) for name, cut in zip(names, cuts, strict=True)
        )
        header = build_header(entries, HEADER_METADATA)
        return header, names, tuple(ranges_of(self._numbers[name] for name in names))
