"""What to read of a source, in which order and in which pieces: pure arithmetic.

A tensor is a matrix of bytes: a row holds everything from the last cut dimension on, and each
place gets some columns of some rows. Cut along the first dimension alone there is one row. Experts
that lie in one tensor are cut along two dimensions: by rows among expert ranks, by columns inside.
Pieces are whole rows where a row fits a read, and parts of one row where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from shardedmodel_runtime.checkpoint import SourceTensor
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS
from shardedmodel_runtime.layout.casting import Cast
from shardedmodel_runtime.sharding.cuts import Range, TensorCut, cover


@dataclass(frozen=True, slots=True)
class RowCut:
    """A tensor as a matrix of bytes, as it lies in the layout.

    Args:
        rows: number of rows.
        row_bytes: bytes of a row.
        cast: from the source's bytes to these, where they differ.
    """

    rows: int
    row_bytes: int
    cast: Cast | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What one place gets of a matrix of bytes.

    Args:
        rows: half-open ranges of rows, ascending.
        columns: half-open ranges of bytes of a row, ascending.
        pad_bytes: zero bytes behind each row.
    """

    rows: tuple[Range, ...]
    columns: tuple[Range, ...]
    pad_bytes: int = 0


def row_cut(cut: TensorCut) -> RowCut:
    """The matrix whose rows begin at the last dimension that is cut."""
    cast = Cast(cut.cast_from, cut.dtype) if cut.cast_from else None
    rows = math.prod(cut.shape[: _last_dim(cut)])
    return RowCut(rows, cut.nbytes // max(rows, 1), cast)


def share_of(cut: TensorCut, tensor: int, expert: int) -> Share:
    """What a tensor rank and an expert rank get of the matrix of ``row_cut``."""
    last = _last_dim(cut)
    rows: tuple[Range, ...] = ((0, math.prod(cut.shape[:last])),)
    columns: tuple[Range, ...] = ((0, row_cut(cut).row_bytes),)
    pad = 0
    for part in cut.piece(tensor, expert).slices:
        if part.dim == last:
            bits = math.prod(cut.shape[last + 1 :]) * DTYPE_BITS[cut.dtype]
            columns = tuple((start * bits // 8, stop * bits // 8) for start, stop in part.ranges)
            pad = part.pad * bits // 8
        else:
            each = math.prod(cut.shape[part.dim + 1 : last])
            rows = tuple((start * each, stop * each) for start, stop in part.ranges)
    return Share(rows, columns, pad)


def _last_dim(cut: TensorCut) -> int:
    return max((axis.dim for axis in cut.axes), default=0)


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
    name: str, cut: RowCut, chunk_bytes: int, shares: Sequence[Share]
) -> Iterator[Piece]:
    """Cut what the given shares need of a tensor into pieces of at most ``chunk_bytes``.

    Args:
        name: of the tensor.
        cut: the tensor as a matrix.
        chunk_bytes: largest piece, in bytes of the source.
        shares: what is wanted; of a matrix of several rows, whole rows are read.
    """
    before, after = (cut.cast.source_bytes, cut.cast.target_bytes) if cut.cast else (1, 1)
    step = max(chunk_bytes // before, 1) * after
    row_bytes = max(cut.row_bytes, 1)
    for start, stop in _spans(cut, shares):
        if cut.rows > 1 and row_bytes <= step:
            pieces = _in_steps(start, stop, step // row_bytes * row_bytes)
        elif cut.rows > 1:
            rows = _in_steps(start, stop, row_bytes)
            pieces = (part for row in rows for part in _in_steps(*row, step))
        else:
            pieces = _in_steps(start, stop, step)
        yield from (Piece(name, a // after * before, b // after * before) for a, b in pieces)


def _spans(cut: RowCut, shares: Iterable[Share]) -> list[Range]:
    """The bytes of a matrix that have to be read: of one row the columns, else whole rows."""
    if cut.rows > 1:
        wanted = cover(sorted(rows for share in shares for rows in share.rows))
        return [(start * cut.row_bytes, stop * cut.row_bytes) for start, stop in wanted]
    return cover(sorted(span for share in shares for span in share.columns))


def _in_steps(start: int, stop: int, step: int) -> Iterator[Range]:
    for position in range(start, stop, step):
        yield position, min(position + step, stop)


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
