"""The way back: from what ranks hold to the checkpoint's tensors, bit for bit.

Along the way it is checked that pieces cover each tensor, that copies of the same rows agree, and
that padding is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from shardedmodel_runtime.errors import ChecksumMismatch, LayoutError, excerpt
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.reading import RowCut, Share, row_cut, share_of
from shardedmodel_runtime.sharding.cuts import Range, TensorCut
from shardedmodel_runtime.storage.base import ObjectStore

Bytes = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class HeldPiece:
    """One rank's piece of a tensor: which part of it, and its bytes."""

    rank: int
    share: Share
    data: Buffer


def recombine_tensor(name: str, cut: TensorCut, pieces: Sequence[HeldPiece]) -> bytearray:
    """Put one tensor together.

    Args:
        name: for messages.
        cut: how it was cut.
        pieces: what ranks hold of it; copies of the same bytes are compared.

    Returns:
        The tensor's bytes as they lie in the layout, row-major.

    Raises:
        LayoutError: pieces are missing, or their sizes do not fit.
        ChecksumMismatch: copies of the same bytes differ, or padding is not zero.
    """
    label = f"tensor {excerpt(name)!r}"
    if not pieces:
        raise LayoutError(f"{label}: nobody holds it")
    whole = bytearray(cut.nbytes)
    canvas = _Canvas(label, row_cut(cut), whole, [piece.share for piece in pieces])
    for piece in pieces:
        canvas.place(piece)
    canvas.check_covered()
    return whole


class _Canvas:
    """A tensor as a matrix of bytes, filled cell by cell.

    Cells lie between the edges of all shares, so each is wholly in a share or wholly outside.
    """

    def __init__(self, label: str, cut: RowCut, whole: bytearray, shares: Sequence[Share]) -> None:
        self._label = label
        self._cut = cut
        self._matrix = np.frombuffer(whole, np.uint8).reshape(cut.rows, cut.row_bytes)
        self._rows = _cells(cut.rows, [share.rows for share in shares])
        self._columns = _cells(cut.row_bytes, [share.columns for share in shares])
        self._filled: set[tuple[Range, Range]] = set()

    def place(self, piece: HeldPiece) -> None:
        """Fill in one piece; where bytes are there already, compare."""
        rows, pad = _ordered(piece.share.rows), piece.share.pad_bytes
        columns = _ordered(piece.share.columns)
        height, width = _length(rows), _length(columns)
        if len(piece.data) != height * (width + pad):
            raise LayoutError(
                f"{self._label}: rank {piece.rank} holds {len(piece.data)} bytes, "
                f"{height * (width + pad)} follow from its cut"
            )
        data = np.frombuffer(piece.data, np.uint8).reshape(height, width + pad)
        for (row, at_row), (column, at_column) in product(rows, columns):
            here = data[
                at_row : at_row + row[1] - row[0], at_column : at_column + column[1] - column[0]
            ]
            self._fill(piece.rank, row, column, here)
        if data[:, width:].any():
            raise ChecksumMismatch(f"{self._label}: rank {piece.rank}'s pad is not zero")

    def check_covered(self) -> None:
        """See that every byte came from somewhere."""
        for row, column in product(self._rows, self._columns):
            if (row, column) not in self._filled:
                raise LayoutError(
                    f"{self._label}: nobody holds bytes [{column[0]}, {column[1]}) of rows "
                    f"[{row[0]}, {row[1]}) of {self._cut.rows}"
                )

    def _fill(self, rank: int, rows: Range, columns: Range, data: Bytes) -> None:
        """Write the cells that nobody has filled, compare the rest."""
        inside = product(_within(self._rows, rows), _within(self._columns, columns))
        for row, column in inside:
            here = data[
                row[0] - rows[0] : row[1] - rows[0], column[0] - columns[0] : column[1] - columns[0]
            ]
            there = self._matrix[slice(*row), slice(*column)]
            if (row, column) not in self._filled:
                there[:] = here
                self._filled.add((row, column))
            elif not np.array_equal(here, there):
                raise ChecksumMismatch(
                    f"{self._label}: rank {rank}'s copy of bytes [{column[0]}, {column[1]}) of "
                    f"rows [{row[0]}, {row[1]}) differs from another's"
                )


def _cells(size: int, ranges: Sequence[Sequence[Range]]) -> list[Range]:
    edges = {0, size, *(edge for spans in ranges for span in spans for edge in span)}
    return list(pairwise(sorted(edges)))


def _within(cells: Sequence[Range], span: Range) -> list[Range]:
    return [cell for cell in cells if span[0] <= cell[0] and cell[1] <= span[1]]


def _ordered(ranges: Sequence[Range]) -> list[tuple[Range, int]]:
    """Each range, and where in the piece it begins."""
    starts, position = [], 0
    for start, stop in ranges:
        starts.append(((start, stop), position))
        position += stop - start
    return starts


def _length(ordered: Sequence[tuple[Range, int]]) -> int:
    return sum(stop - start for (start, stop), _ in ordered)


def recombine_layout(
    manifest: Manifest, store: ObjectStore, digests: Mapping[str, str]
) -> Iterator[tuple[str, bytearray]]:
    """Recombine a layout from its store, one whole tensor in memory at a time.

    Args:
        manifest: of the layout.
        store: the layout's folder.
        digests: the state of each object that was verified.

    Yields:
        Each tensor's name and bytes, in the source's order.

    Raises:
        LayoutError: pieces do not fit together.
        SourceChanged: an object changed since it was verified.
    """
    for name, cut in manifest.tensors.items():
        pieces = []
        for copy in manifest.copies[name]:
            data = bytearray(copy.piece.nbytes)
            if data:
                store.read_range(copy.key, copy.start, memoryview(data), digest=digests[copy.key])
            share = share_of(cut, copy.place.tensor, copy.place.expert)
            pieces.append(HeldPiece(copy.place.rank, share, data))
        yield name, recombine_tensor(name, cut, pieces)
