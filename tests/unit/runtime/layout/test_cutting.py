from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardedmodel_runtime.layout import cutting
from shardedmodel_runtime.layout.cutting import TensorCutter
from shardedmodel_runtime.layout.reading import (
    Piece,
    RowCut,
    Share,
    row_cut,
    share_of,
    tensor_pieces,
)
from shardedmodel_runtime.sharding.cuts import AxisCut, Over, TensorCut

ROW = ((0, 1),)


def cut_all(cut: TensorCut, data: bytes, chunk: int, experts: int = 1) -> list[bytes]:
    """What each place receives when ``data`` comes in pieces of at most ``chunk`` bytes."""
    axis = cut.axis("tensor")
    places = [(t, e) for e in range(experts) for t in range(len(axis.ranges) if axis else 1)]
    shares = [share_of(cut, *place) for place in places]
    return receive_all(row_cut(cut), shares, data, chunk)


def receive_all(cut: RowCut, shares: list[Share], data: bytes, chunk: int) -> list[bytes]:
    received = [bytearray() for _ in shares]
    cutter = TensorCutter(cut, [(s, r.extend) for s, r in zip(shares, received, strict=True)])
    for piece in tensor_pieces("w", cut, chunk, shares):
        cutter.take(piece, memoryview(data)[piece.start : piece.stop])
    cutter.finish()
    return [bytes(one) for one in received]


@st.composite
def axes(draw: st.DrawFn, over: Over, dim: int, size: int) -> AxisCut:
    """Any cut of one dimension: ranges in several parts, overlapping ranks, padding."""
    ranks = draw(st.integers(1, 3))
    ranges = []
    for _ in range(ranks):
        edges = sorted(draw(st.sets(st.integers(0, size), max_size=4)))
        ranges.append(tuple(zip(edges[::2], edges[1::2], strict=False)))
    pad = tuple(draw(st.integers(0, 2)) if over == "tensor" else 0 for _ in range(ranks))
    return AxisCut(over, dim, tuple(ranges), pad)


@st.composite
def cuts(draw: st.DrawFn) -> TensorCut:
    """Any cut: of any dimension over tensor ranks, and of the first over expert ranks as well."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    dim = draw(st.integers(0, len(shape) - 1))
    found = [draw(axes("tensor", dim, shape[dim]))]
    if dim and draw(st.booleans()):
        found.append(draw(axes("expert", 0, shape[0])))
    return TensorCut("U16", shape, "any", tuple(found))


def expected(cut: TensorCut, array: np.ndarray[tuple[int, ...], np.dtype[Any]]) -> list[bytes]:
    """The same by numpy's own indexing."""
    tensor, expert = cut.axis("tensor"), cut.axis("expert")
    assert tensor is not None
    pieces = []
    for e in range(len(expert.ranges) if expert else 1):
        for t in range(len(tensor.ranges)):
            piece = array
            for part in cut.piece(t, e).slices:
                rows = [i for start, stop in part.ranges for i in range(start, stop)]
                taken = piece.take(rows, axis=part.dim)
                widths = [(0, part.pad if axis == part.dim else 0) for axis in range(array.ndim)]
                piece = np.pad(taken, widths)
            pieces.append(piece.tobytes())
    return pieces


@given(cuts(), st.integers(2, 64))
def test_places_receive_what_numpy_would_cut(cut: TensorCut, chunk: int) -> None:
    count = int(np.prod(cut.shape))
    array = np.arange(1, count + 1, dtype=np.uint16).reshape(cut.shape)
    expert = cut.axis("expert")
    received = cut_all(cut, array.tobytes(), chunk, len(expert.ranges) if expert else 1)
    assert received == expected(cut, array)


@given(cuts(), st.integers(2, 64))
def test_a_tensor_is_cast_before_it_is_cut(cut: TensorCut, chunk: int) -> None:
    count = int(np.prod(cut.shape))
    array = np.arange(1, count + 1, dtype=np.float64).reshape(cut.shape)
    cut = replace(cut, dtype="F16", cast_from="F64")
    expert = cut.axis("expert")
    received = cut_all(cut, array.tobytes(), chunk, len(expert.ranges) if expert else 1)
    assert received == expected(cut, array.astype(np.float16))


def test_padding_larger_than_the_zeros_at_hand_is_written_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cutting, "ZEROS", memoryview(bytes(4)))
    shares = [Share(ROW, ((0, 2),), 10)]
    assert receive_all(RowCut(1, 2), shares, b"ab", 8) == [b"ab" + bytes(10)]


def test_a_share_of_padding_alone_needs_no_piece() -> None:
    received = bytearray()
    TensorCutter(RowCut(1, 2), [(Share(ROW, (), 3), received.extend)]).finish()
    assert received == bytes(3)


def test_a_place_that_is_not_written_now_receives_nothing() -> None:
    received = bytearray()
    cutter = TensorCutter(RowCut(1, 4), [(Share(ROW, ((0, 2),)), received.extend)])
    cutter.take(Piece("w", 2, 4), memoryview(b"cd"))
    assert received == b""
