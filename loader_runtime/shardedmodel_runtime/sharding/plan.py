"""A sharding plan: for every tensor how it is cut, for every rank what it gets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from shardedmodel_runtime.formats.dtypes import tensor_bytes
from shardedmodel_runtime.naming import canonical_json
from shardedmodel_runtime.parallelism import Parallelism

Range = tuple[int, int]
"""A half-open range of indices along the cut dimension."""

REPLICATE = "replicate"


@dataclass(frozen=True, slots=True)
class TensorCut:
    """How one tensor is cut over the ranks of a tensor-parallel group.

    ``dim`` is the dimension cut, None for a replicated tensor. ``ranges[t]`` are the ascending
    half-open ranges along ``dim`` that tensor rank ``t`` gets, laid one after the other, followed
    by ``pad[t]`` zero rows, which are never weight. ``matched`` is false when no rule named the
    tensor and it is replicated for want of one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    strategy: str = REPLICATE
    dim: int | None = None
    ranges: tuple[tuple[Range, ...], ...] = ()
    pad: tuple[int, ...] = ()
    matched: bool = True

    def local_shape(self, tensor_rank: int) -> tuple[int, ...]:
        """Shape of the piece of ``tensor_rank``, its pad included."""
        if self.dim is None:
            return self.shape
        rows = sum(stop - start for start, stop in self.ranges[tensor_rank])
        return (
            *self.shape[: self.dim],
            rows + self.pad[tensor_rank],
            *self.shape[self.dim + 1 :],
        )

    def local_bytes(self, tensor_rank: int) -> int:
        """Bytes of the piece of ``tensor_rank``."""
        return tensor_bytes(self.dtype, self.local_shape(tensor_rank))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return tensor_bytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class ShardingPlan:
    """All cuts of a checkpoint, by tensor name in the order of the source."""

    parallelism: Parallelism
    model_type: str
    cuts: Mapping[str, TensorCut]

    @property
    def unmatched(self) -> tuple[TensorCut, ...]:
        """Tensors that no rule named and that are replicated for want of one."""
        return tuple(cut for cut in self.cuts.values() if not cut.matched)

    @property
    def unmatched_bytes(self) -> int:
        """Bytes of the tensors that no rule named."""
        return sum(cut.nbytes for cut in self.unmatched)

    def rank_bytes(self, rank: int) -> int:
        """Bytes of tensors that ``rank`` holds, replicated ones and pad included."""
        tensor_rank = self.parallelism.coordinate(rank).tensor
        return sum(cut.local_bytes(tensor_rank) for cut in self.cuts.values())

    def digest(self) -> str:
        """SHA-256 over every cut: plans that cut alike have the same, whatever rules led there."""
        cuts = [
            [cut.name, cut.dtype, cut.shape, cut.strategy, cut.dim, cut.ranges, cut.pad]
            for cut in self.cuts.values()
        ]
        document = {"parallelism": self.parallelism.as_dict(), "cuts": cuts}
        return "sha256:" + hashlib.sha256(canonical_json(document)).hexdigest()
