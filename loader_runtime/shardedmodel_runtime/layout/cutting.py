"""Cuts the bytes of tensors among ranks, piece by piece, as they come out of a source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from shardedmodel_runtime.layout.reading import Piece, RowCut

Bytes = npt.NDArray[np.uint8]
Receive = Callable[[memoryview], None]
"""Takes the next bytes of one rank's piece of the tensor."""

ZEROS = memoryview(bytes(1024 * 1024))
"""Padding is written from here, piece by piece: it may be larger than any buffer."""


class TensorCutter:
    """Hands the pieces of one tensor, which come in order, to the ranks that need them.

    Args:
        cut: the tensor as a matrix of bytes.
        receivers: for each tensor-parallel rank that is being written now, where its bytes go.
    """

    def __init__(self, cut: RowCut, receivers: Sequence[tuple[int, Receive]]) -> None:
        self._cut = cut
        self._receivers = receivers

    def take(self, piece: Piece, data: memoryview) -> None:
        """Cut one piece: whole rows, or a part of one row."""
        row_bytes = self._cut.row_bytes
        if self._cut.rows > 1 and piece.start % row_bytes == 0 and len(data) % row_bytes == 0:
            self._take_rows(np.frombuffer(data, np.uint8).reshape(-1, row_bytes))
        else:
            self._take_part_of_row(piece.start % row_bytes, data)

    def finish(self) -> None:
        """Pad a tensor of one row; rows of others have been padded one by one."""
        if self._cut.rows == 1:
            self._pad_row()

    def _take_rows(self, rows: Bytes) -> None:
        for rank, receive in self._receivers:
            parts = [rows[:, start:stop] for start, stop in self._cut.columns[rank]]
            if self._cut.pad_bytes[rank]:
                parts.append(np.zeros((len(rows), self._cut.pad_bytes[rank]), np.uint8))
            if parts:
                gathered = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
                receive(np.ascontiguousarray(gathered).reshape(-1).data)

    def _take_part_of_row(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        for rank, receive in self._receivers:
            for start, stop in self._cut.columns[rank]:
                first, last = max(start, offset), min(stop, end)
                if first < last:
                    receive(data[first - offset : last - offset])
        if self._cut.rows > 1 and end == self._cut.row_bytes:
            self._pad_row()

    def _pad_row(self) -> None:
        for rank, receive in self._receivers:
            left = self._cut.pad_bytes[rank]
            while left:
                count = min(left, len(ZEROS))
                receive(ZEROS[:count])
                left -= count
