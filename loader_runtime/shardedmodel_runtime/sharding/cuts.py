"""How one tensor is cut over the ranks, and the piece of it that each rank holds.

Tensors that are cut alike share one ``TensorCut``: a checkpoint of 90,000 tensors has a few
hundred of them, whatever the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from shardedmodel_runtime.formats.dtypes import tensor_bytes

Range = tuple[int, int]
"""Half-open, ``[first, stop)``: of indices along a dimension, of bytes, or of tensors by number."""

Over = Literal["tensor", "expert"]
"""The kind of parallelism whose ranks share a dimension."""

REPLICATE = "replicate"


@dataclass(frozen=True, slots=True)
class AxisCut:
    """One dimension cut over the ranks of one kind of parallelism.

    ``ranges[i]`` are the ascending half-open ranges along ``dim`` that rank ``i`` of that kind
    gets, laid one after the other, followed by ``pad[i]`` zero rows, which are never weight.
    """

    over: Over
    dim: int
    ranges: tuple[tuple[Range, ...], ...]
    pad: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """What a piece holds of one dimension: ``ranges`` of the whole, then ``pad`` zero rows."""

    dim: int
    ranges: tuple[Range, ...]
    pad: int

    @property
    def rows(self) -> int:
        """Rows of the whole tensor in it, without the pad."""
        return sum(stop - start for start, stop in self.ranges)


@dataclass(frozen=True, slots=True)
class LocalPiece:
    """One rank's piece of a tensor: its shape, where it comes from, and its bytes."""

    shape: tuple[int, ...]
    slices: tuple[Slice, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class TensorCut:
    """How a tensor is cut, and which ranks hold it.

    Args:
        dtype: as it lies in the layout.
        shape: of the whole tensor.
        strategy: what cut it.
        axes: the cut dimensions, at most one for each kind of parallelism; none: held whole.
        cast_from: the checkpoint's dtype where the tensor is cast on the way, else None.
        stages: the pipeline stages that hold it, ascending; None: all of them.
        expert: the one expert rank that holds it; None: all of them.
        added_once: a bias that every rank holds whole and only one may add, or all of them
            after the sum over the ranks: that of a row-cut weight.
    """

    dtype: str
    shape: tuple[int, ...]
    strategy: str = REPLICATE
    axes: tuple[AxisCut, ...] = ()
    cast_from: str | None = None
    stages: tuple[int, ...] | None = None
    expert: int | None = None
    added_once: bool = False

    def axis(self, over: Over) -> AxisCut | None:
        """The dimension cut over the ranks of one kind of parallelism, if there is one."""
        return next((axis for axis in self.axes if axis.over == over), None)

    def is_held_by(self, stage: int, expert: int) -> bool:
        """Whether the ranks of a pipeline stage and an expert rank hold a piece of it."""
        return (self.stages is None or stage in self.stages) and self.expert in (None, expert)

    def piece(self, tensor: int = 0, expert: int = 0) -> LocalPiece:
        """The piece of a tensor rank and an expert rank, where they hold it."""
        place = {"tensor": tensor, "expert": expert}
        slices = tuple(
            Slice(axis.dim, axis.ranges[place[axis.over]], axis.pad[place[axis.over]])
            for axis in self.axes
        )
        shape = list(self.shape)
        for part in slices:
            shape[part.dim] = part.rows + part.pad
        return LocalPiece(tuple(shape), slices, tensor_bytes(self.dtype, shape))

    def local_bytes(self, tensor: int = 0, expert: int = 0) -> int:
        """Bytes of a piece."""
        return self.piece(tensor, expert).nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor as it lies in the layout."""
        return tensor_bytes(self.dtype, self.shape)


def cover(spans: Iterable[Range]) -> list[Range]:
    """What ascending spans cover together, neighbours and overlaps in one, without empty ones."""
    covered: list[Range] = []
    for start, stop in spans:
        if covered and start <= covered[-1][1]:
            covered[-1] = (covered[-1][0], max(covered[-1][1], stop))
        elif start < stop:
            covered.append((start, stop))
    return covered
