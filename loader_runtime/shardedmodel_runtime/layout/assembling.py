"""Bytes of a whole tensor, found in the pieces that a layout holds: pure arithmetic.

A tensor is a matrix of bytes: a row holds everything from the last cut dimension on. A piece has
some of its columns and, where an earlier dimension is cut as well, some of its rows; a tensor is
cut along two dimensions at most, tensor and expert ranks sharing one each. Any span of the
tensor's bytes is a few windows of that matrix, and each window a few blocks of pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from shardedmodel_runtime.errors import LayoutError, excerpt
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS
from shardedmodel_runtime.sharding.cuts import Range


@dataclass(frozen=True, slots=True)
class Holding:
    """One piece of a tensor: where it lies, and what of the whole it is.

    Args:
        key: the object.
        start: the piece's first byte in the object.
        shape: of the piece, its pad included.
        ranges: for each cut dimension the ranges of the whole that the piece holds, in order.
    """

    key: str
    start: int
    shape: tuple[int, ...]
    ranges: dict[int, tuple[Range, ...]]


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes of an object, ``rows`` times ``width`` of them, and where in a span they go.

    Args:
        key: the object.
        start: the first of them in the object.
        stride: from one row to the next in the object.
        rows: number of rows.
        width: bytes of each row.
        target: where the first row goes, counted from the span's beginning.
        target_stride: from one row to the next in the span.
    """

    key: str
    start: int
    stride: int
    rows: int
    width: int
    target: int
    target_stride: int

    @property
    def stop(self) -> int:
        """One past the last of them in the object."""
        return self.start + (self.rows - 1) * self.stride + self.width

    def moved(self, offset: int) -> Block:
        """The same block where its span begins ``offset`` bytes into another."""
        return replace(self, target=self.target + offset)


@dataclass(frozen=True, slots=True)
class _Strip:
    """Columns ``[first, stop)`` that a piece holds, and where they begin in the object."""

    first: int
    stop: int
    start: int
    stride: int
    key: str


class TensorAssembly:
    """One tensor of a layout, readable as if it lay in one place.

    Args:
        name: for messages.
        dtype: of its elements.
        shape: of the whole.
        holdings: its pieces; bytes that several hold are read from one of them.
    """

    def __init__(
        self, name: str, dtype: str, shape: tuple[int, ...], holdings: Sequence[Holding]
    ) -> None:
        self._label = excerpt(name)
        self._bits = DTYPE_BITS[dtype]
        self._shape = shape
        self._holdings = holdings
        dims = sorted({dim for holding in holdings for dim in holding.ranges})
        self._outer = dims[0] if len(dims) == 2 else None
        self._dim = dims[-1] if dims else 0
        self._width = self._bytes(shape[self._dim :])
        self.nbytes = math.prod(shape[: self._dim]) * self._width

    def blocks(self, start: int, stop: int) -> Iterator[Block]:
        """Give what to read for the tensor's bytes ``[start, stop)``.

        Raises:
            LayoutError: nobody holds some of them.
        """
        position = start
        while position < stop:
            row, first = divmod(position, self._width)
            if first or stop - position < self._width:
                last = min(self._width, first + stop - position)
                rows = 1
            else:
                last = self._width
                rows = self._rows_alike(row, stop // self._width)
            for strip, a, b in self._cover(row, first, last):
                target = position - start + a - first
                yield Block(
                    strip.key,
                    strip.start + a - strip.first,
                    strip.stride,
                    rows,
                    b - a,
                    target,
                    last - first,
                )
            position += rows * (last - first)

    def _rows_alike(self, row: int, stop: int) -> int:
        """Rows from ``row`` on that lie one after the other in every piece that has them."""
        if self._outer is None:
            return stop - row
        index, inside = self._outer_index(row)
        edges = [self._shape[self._outer]] + [
            edge
            for holding in self._holdings
            for span in holding.ranges[self._outer]
            for edge in span
        ]
        edge = min(edge for edge in edges if edge > index)
        return min((edge - index) * self._rows_inside - inside, stop - row)

    def _cover(self, row: int, first: int, last: int) -> Iterator[tuple[_Strip, int, int]]:
        """Choose who brings which columns: from the left, always who reaches farthest."""
        strips = list(self._strips(row))
        while first < last:
            held = [strip for strip in strips if strip.first <= first < strip.stop]
            if not held:
                raise LayoutError(f"tensor {self._label!r}: nobody holds all of row {row}")
            strip = max(held, key=lambda each: each.stop)
            stop = min(strip.stop, last)
            yield strip, first, stop
            first = stop

    def _strips(self, row: int) -> Iterator[_Strip]:
        """What each piece holds of one row."""
        for holding in self._holdings:
            local = self._local_row(holding, row)
            if local is None:
                continue
            stride = self._bytes(holding.shape[self._dim :])
            start = holding.start + local * stride
            step = self._shape[self._dim + 1 :]
            for begin, end in holding.ranges.get(self._dim, ((0, self._whole),)):
                width = self._bytes((end - begin, *step))
                offset = self._bytes((begin, *step))
                yield _Strip(offset, offset + width, start, stride, holding.key)
                start += width

    def _local_row(self, holding: Holding, row: int) -> int | None:
        """Where a piece has a row of the whole; None where it has not."""
        if self._outer is None:
            return row
        index, inside = self._outer_index(row)
        block = row // (self._rows_inside * self._shape[self._outer])
        position = block * holding.shape[self._outer]
        for begin, end in holding.ranges[self._outer]:
            if begin <= index < end:
                return (position + index - begin) * self._rows_inside + inside
            position += end - begin
        return None

    @property
    def _rows_inside(self) -> int:
        """Rows under one index of the outer cut dimension."""
        assert self._outer is not None
        return math.prod(self._shape[self._outer + 1 : self._dim])

    def _outer_index(self, row: int) -> tuple[int, int]:
        """A row's index along the outer cut dimension, and its place under that."""
        assert self._outer is not None
        above, inside = divmod(row, self._rows_inside)
        return above % self._shape[self._outer], inside

    @property
    def _whole(self) -> int:
        return self._shape[self._dim] if self._shape else 1

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * self._bits // 8
