from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardedmodel_runtime.layout import cutting
from shardedmodel_runtime.layout.cutting import TensorCutter
from shardedmodel_runtime.layout.reading import Piece, RowCut, row_cut, tensor_pieces
from shardedmodel_runtime.sharding.plan import TensorCut


def cut_all(cut: RowCut, data: bytes, chunk: int) -> list[bytes]:
    """What each rank receives when ``data`` comes in pieces of at most ``chunk`` bytes."""
    received = [bytearray() for _ in cut.columns]
    ranks = range(len(received))
    cutter = TensorCutter(cut, [(rank, received[rank].extend) for rank in ranks])
    for piece in tensor_pieces("w", cut, chunk, list(ranks)):
        cutter.take(piece, memoryview(data)[piece.start : piece.stop])
    cutter.finish()
    return [bytes(one) for one in received]


@st.composite
def cuts(draw: st.DrawFn) -> TensorCut:
    """Any cut: any dimension, ranges in several parts, overlapping ranks, padding."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    dim = draw(st.integers(0, len(shape) - 1))
    ranks = draw(st.integers(1, 3))
    ranges = []
    for _ in range(ranks):
        edges = sorted(draw(st.sets(st.integers(0, shape[dim]), max_size=4)))
        ranges.append(tuple(zip(edges[::2], edges[1::2], strict=False)))
    pad = tuple(draw(st.integers(0, 2)) for _ in range(ranks))
    return TensorCut("w", "U16", shape, "any", dim, tuple(ranges), pad)


def expected(
    cut: TensorCut, array: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]
) -> list[bytes]:
    """The same by numpy's own indexing."""
    assert cut.dim is not None
    pieces = []
    for ranges, pad in zip(cut.ranges, cut.pad, strict=True):
        rows = [i for start, stop in ranges for i in range(start, stop)]
        taken = array.take(rows, axis=cut.dim)
        widths = [(0, pad if axis == cut.dim else 0) for axis in range(array.ndim)]
        pieces.append(np.pad(taken, widths).tobytes())
    return pieces


@given(cuts(), st.integers(2, 64))
def test_ranks_receive_what_numpy_would_cut(cut: TensorCut, chunk: int) -> None:
    count = int(np.prod(cut.shape))
    array = np.arange(1, count + 1, dtype=np.uint16).reshape(cut.shape)
    assert cut_all(row_cut(cut), array.tobytes(), chunk) == expected(cut, array)


def test_padding_larger_than_the_zeros_at_hand_is_written_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cutting, "ZEROS", memoryview(bytes(4)))
    assert cut_all(RowCut(1, 2, (((0, 2),),), (10,)), b"ab", 8) == [b"ab" + bytes(10)]


def test_a_rank_of_padding_alone_needs_no_piece() -> None:
    received = bytearray()
    cutter = TensorCutter(RowCut(1, 2, (((0, 2),), ()), (0, 3)), [(1, received.extend)])
    cutter.finish()
    assert received == bytes(3)


def test_a_rank_that_is_not_written_now_receives_nothing() -> None:
    received = bytearray()
    cutter = TensorCutter(RowCut(1, 4, (((0, 2),), ((2, 4),)), (0, 0)), [(1, received.extend)])
    cutter.take(Piece("w", 2, 4), memoryview(b"cd"))
    assert received == b"cd"
