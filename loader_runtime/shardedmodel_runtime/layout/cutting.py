"""Cuts the bytes of tensors among ranks, piece by piece, as they come out of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from shardedmodel_runtime.layout.reading import Piece, RowCut, Share
from shardedmodel_runtime.sharding.cuts import Range

Bytes = npt.NDArray[np.uint8]
Receive = Callable[[memoryview], None]
"""Takes the next bytes of one place's piece of the tensor."""

ZEROS = memoryview(bytes(1024 * 1024))
"""Padding is written from here, piece by piece: it may be larger than any buffer."""


class TensorCutter:
    """Hands the pieces of one tensor, which come in order, to the places that need them.

    Args:
        cut: the tensor as a matrix of bytes.
        receivers: for each place that is being written now, its share and where its bytes go.
    """

    def __init__(self, cut: RowCut, receivers: Sequence[tuple[Share, Receive]]) -> None:
        self._cut = cut
        self._receivers = receivers

    def take(self, piece: Piece, data: memoryview) -> None:
        """Cut one piece: whole rows, or a part of one row.

        Args:
            piece: where the bytes stand in the source's tensor.
            data: the bytes, in the source's dtype; they are cast here where the cut says so.
        """
        start, cast = piece.start, self._cut.cast
        if cast:
            start, data = start // cast.source_bytes * cast.target_bytes, cast(data)
        row, offset = divmod(start, max(self._cut.row_bytes, 1))
        if self._cut.rows > 1 and not offset and len(data) % self._cut.row_bytes == 0:
            self._take_rows(row, np.frombuffer(data, np.uint8).reshape(-1, self._cut.row_bytes))
        else:
            self._take_part_of_row(row, offset, data)

    def finish(self) -> None:
        """Pad a tensor of one row; rows of others have been padded one by one."""
        if self._cut.rows == 1:
            self._pad_row(0)

    def _take_rows(self, row: int, rows: Bytes) -> None:
        for share, receive in self._receivers:
            for first, stop in _overlaps(share.rows, row, row + len(rows)):
                _give(share, rows[first - row : stop - row], receive)

    def _take_part_of_row(self, row: int, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        for share, receive in self._receivers:
            if any(first <= row < stop for first, stop in share.rows):
                for first, stop in _overlaps(share.columns, offset, end):
                    receive(data[first - offset : stop - offset])
        if self._cut.rows > 1 and end == self._cut.row_bytes:
            self._pad_row(row)

    def _pad_row(self, row: int) -> None:
        for share, receive in self._receivers:
            left = share.pad_bytes if any(a <= row < b for a, b in share.rows) else 0
            while left:
                count = min(left, len(ZEROS))
                receive(ZEROS[:count])
                left -= count


def _give(share: Share, rows: Bytes, receive: Receive) -> None:
    """Hand a share's columns of whole rows over, each row padded."""
    parts = [rows[:, start:stop] for start, stop in share.columns]
    if share.pad_bytes:
        parts.append(np.zeros((len(rows), share.pad_bytes), np.uint8))
    if parts:
        gathered = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        receive(np.ascontiguousarray(gathered).reshape(-1).data)


def _overlaps(ranges: Sequence[Range], first: int, stop: int) -> Iterator[Range]:
    """What of ascending ranges lies in ``[first, stop)``."""
    for start, end in ranges:
        if max(start, first) < min(end, stop):
            yield max(start, first), min(end, stop)
