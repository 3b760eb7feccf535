"""What to read of a source, in which order and in which pieces: pure arithmetic.

A tensor that is cut along ``dim`` is a matrix of bytes: ``rows`` rows of ``row_bytes``, where
a row holds everything from ``dim`` on, and each rank gets the same columns of every row. Cut
along the first dimension there is one row. Pieces are whole rows where a row fits a read, and
parts of one row where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from shardedmodel_runtime.checkpoint import SourceTensor
from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS
from shardedmodel_runtime.sharding.plan import TensorCut


@dataclass(frozen=True, slots=True)
class RowCut:
    """A tensor as a matrix of bytes, and which columns go to which rank.

    Args:
        rows: number of rows.
        row_bytes: bytes of a row.
        columns: half-open byte ranges of a row, ascending, for each tensor-parallel rank; the
            whole row, for one receiver, where the tensor is replicated.
        pad_bytes: zero bytes behind each row, for each tensor-parallel rank.
    """

    rows: int
    row_bytes: int
    columns: tuple[tuple[tuple[int, int], ...], ...]
    pad_bytes: tuple[int, ...]


def row_cut(cut: TensorCut) -> RowCut:
    """Turn a cut along a dimension into one of bytes.

    Raises:
        InvalidSharding: a piece would not begin at a whole byte (dtypes below 8 bits).
    """
    width = DTYPE_BITS[cut.dtype]
    if cut.dim is None:
        size = cut.nbytes
        return RowCut(1, size, (((0, size),),), (0,))
    inner_bits = math.prod(cut.shape[cut.dim + 1 :]) * width

    def to_bytes(elements: int) -> int:
        whole, rest = divmod(elements * inner_bits, 8)
        if rest:
            raise InvalidSharding(
                f"tensor {cut.name!r}: {cut.dtype} has {width} bits, and a cut at {elements} "
                f"along dimension {cut.dim} is inside a byte; use `replicate` for it"
            )
        return whole

    columns = tuple(
        tuple((to_bytes(start), to_bytes(stop)) for start, stop in ranges) for ranges in cut.ranges
    )
    return RowCut(
        rows=math.prod(cut.shape[: cut.dim]),
        row_bytes=to_bytes(cut.shape[cut.dim]),
        columns=columns,
        pad_bytes=tuple(to_bytes(pad) for pad in cut.pad),
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``[start, stop)`` of a tensor's own bytes, which go through the cutter at once."""

    tensor: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class SourceRead:
    """One ranged read of ``[start, stop)`` of an object, and the pieces that it brings in order."""

    key: str
    start: int
    stop: int
    pieces: tuple[Piece, ...]


def tensor_pieces(
    name: str, cut: RowCut, chunk_bytes: int, tensor_ranks: Sequence[int]
) -> Iterator[Piece]:
    """Cut what the given ranks need of a tensor into pieces of at most ``chunk_bytes``."""
    if cut.rows > 1:
        size, row_bytes = cut.rows * cut.row_bytes, max(cut.row_bytes, 1)
        if row_bytes <= chunk_bytes:
            yield from _in_steps(name, 0, size, chunk_bytes // row_bytes * row_bytes)
            return
        for start in range(0, size, row_bytes):
            yield from _in_steps(name, start, start + row_bytes, chunk_bytes)
        return
    for start, stop in _union(span for rank in tensor_ranks for span in cut.columns[rank]):
        yield from _in_steps(name, start, stop, chunk_bytes)


def _in_steps(name: str, start: int, stop: int, step: int) -> Iterator[Piece]:
    for position in range(start, stop, step):
        yield Piece(name, position, min(position + step, stop))


def _union(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        elif start < stop:
            merged.append((start, stop))
    return merged


def source_reads(
    pieces: Iterable[tuple[Piece, SourceTensor]], chunk_bytes: int
) -> Iterator[SourceRead]:
    """Gather pieces that follow each other in an object into reads of at most ``chunk_bytes``.

    The small tensors of a model, hundreds of them, then cost a few requests.
    """
    gathered: list[Piece] = []
    key, start, stop = "", 0, 0
    for piece, source in pieces:
        begin = source.start + piece.start
        end = source.start + piece.stop
        if gathered and (source.key != key or begin != stop or end - start > chunk_bytes):
            yield SourceRead(key, start, stop, tuple(gathered))
            gathered = []
        if not gathered:
            key, start = source.key, begin
        gathered.append(piece)
        stop = end
    if gathered:
        yield SourceRead(key, start, stop, tuple(gathered))
