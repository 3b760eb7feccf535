"""A sharding plan: for every tensor how it is cut, for every rank what it gets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from shardedmodel_runtime.naming import canonical_json
from shardedmodel_runtime.parallelism import Parallelism, RankCoordinate
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.sharding.rules import Rule

KEEP_DTYPE = "keep"
"""Every tensor keeps its own dtype, so that every bit is its own."""


@dataclass(frozen=True)
class ShardingPlan:
    """All cuts of a checkpoint, by tensor name in the order of the source.

    Args:
        parallelism: the degrees.
        model_type: of the checkpoint.
        cuts: how each tensor is cut; tensors that are cut alike share one object.
        unmatched: tensors that no rule named and that are replicated for want of one.
        dtype: what floating-point tensors are cast to, or ``keep``.
        rules: the user's own that it was made with, for those who cut the layout anew.
    """

    parallelism: Parallelism
    model_type: str
    cuts: Mapping[str, TensorCut]
    unmatched: tuple[str, ...] = ()
    dtype: str = KEEP_DTYPE
    rules: tuple[Rule, ...] = ()

    @cached_property
    def kinds(self) -> tuple[TensorCut, ...]:
        """The cuts that differ, in the order in which they first occur."""
        return tuple(self._numbered)

    @cached_property
    def kind_of(self) -> list[int]:
        """For each tensor, in order, the number of its cut among ``kinds``."""
        # Equal cuts are mostly one object, whose number is found without comparing its ranges.
        known: dict[int, int] = {}
        numbers = []
        for cut in self.cuts.values():
            number = known.get(id(cut))
            if number is None:
                number = known[id(cut)] = self._numbered[cut]
            numbers.append(number)
        return numbers

    @cached_property
    def _numbered(self) -> dict[TensorCut, int]:
        numbered: dict[TensorCut, int] = {}
        for cut in {id(cut): cut for cut in self.cuts.values()}.values():
            numbered.setdefault(cut, len(numbered))
        return numbered

    @cached_property
    def counts(self) -> list[int]:
        """For each of ``kinds``, the number of tensors that are cut so."""
        counts = [0] * len(self.kinds)
        for number in self.kind_of:
            counts[number] += 1
        return counts

    @property
    def unmatched_bytes(self) -> int:
        """Bytes of the tensors that no rule named."""
        return sum(self.cuts[name].nbytes for name in self.unmatched)

    def rank_bytes(self, rank: int) -> int:
        """Bytes of tensors that ``rank`` holds, replicated ones and pad included."""
        place = self.parallelism.coordinate(rank)
        return sum(
            count * held_bytes(cut, place)
            for cut, count in zip(self.kinds, self.counts, strict=True)
        )

    def digest(self) -> str:
        """SHA-256 over every cut: plans that cut alike have the same, whatever rules led there."""
        kinds = [
            [
                cut.dtype,
                cut.cast_from,
                cut.shape,
                cut.strategy,
                [[axis.over, axis.dim, axis.ranges, axis.pad] for axis in cut.axes],
                cut.stages,
                cut.expert,
                cut.added_once,
            ]
            for cut in self.kinds
        ]
        document = {
            "parallelism": self.parallelism.as_dict(),
            "kinds": kinds,
            "tensors": [list(self.cuts), self.kind_of],
        }
        return "sha256:" + hashlib.sha256(canonical_json(document)).hexdigest()


def held_bytes(cut: TensorCut, place: RankCoordinate) -> int:
    """Bytes that the rank at ``place`` holds of a tensor; 0 where it holds none."""
    if not cut.is_held_by(place.pipeline, place.expert):
        return 0
    return cut.local_bytes(place.tensor, place.expert)
