from __future__ import annotations

import pytest

from shardedmodel_runtime.checkpoint import SourceTensor
from shardedmodel_runtime.layout.casting import Cast
from shardedmodel_runtime.layout.reading import (
    Piece,
    RowCut,
    Share,
    row_cut,
    share_of,
    source_reads,
    tensor_pieces,
)
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut


def cut(dtype: str, shape: tuple[int, ...], *axes: AxisCut) -> TensorCut:
    return TensorCut(dtype, shape, "any", axes)


def tensor_axis(dim: int, *ranges: tuple[int, int], pad: tuple[int, ...] = ()) -> AxisCut:
    return AxisCut("tensor", dim, tuple((span,) for span in ranges), pad or (0,) * len(ranges))


def spans(cut: RowCut, chunk: int, *shares: Share) -> list[tuple[int, int]]:
    return [(piece.start, piece.stop) for piece in tensor_pieces("w", cut, chunk, shares)]


def columns(*ranges: tuple[int, int], rows: tuple[int, int] = (0, 1)) -> Share:
    return Share((rows,), ranges)


def test_a_cut_of_the_first_dimension_is_one_row() -> None:
    found = cut("F32", (4, 3), tensor_axis(0, (0, 2), (2, 4), pad=(0, 1)))
    assert row_cut(found) == RowCut(1, 48)
    assert share_of(found, 0, 0) == Share(((0, 1),), ((0, 24),), 0)
    assert share_of(found, 1, 0) == Share(((0, 1),), ((24, 48),), 12)


def test_a_cut_of_the_last_dimension_has_a_row_for_each_element_before_it() -> None:
    found = cut("BF16", (5, 4), tensor_axis(1, (0, 2), (2, 4)))
    assert row_cut(found) == RowCut(5, 8)
    assert share_of(found, 1, 0) == Share(((0, 5),), ((4, 8),))


def test_a_replicated_tensor_is_one_row_for_everybody() -> None:
    whole = TensorCut("F32", (2, 2))
    assert row_cut(whole) == RowCut(1, 16)
    assert share_of(whole, 3, 2) == Share(((0, 1),), ((0, 16),))


def test_experts_are_rows_and_what_is_cut_inside_them_are_columns() -> None:
    experts = AxisCut("expert", 0, (((0, 2),), ((2, 4),)), (0, 0))
    found = cut("U8", (4, 3, 6), tensor_axis(2, (0, 3), (3, 6)), experts)
    assert row_cut(found) == RowCut(12, 6)
    assert share_of(found, 1, 1) == Share(((6, 12),), ((3, 6),))


def test_pieces_are_whole_rows_where_a_row_fits() -> None:
    assert spans(RowCut(5, 8), 20, columns((0, 4), rows=(0, 5))) == [(0, 16), (16, 32), (32, 40)]


def test_a_row_that_does_not_fit_is_read_in_parts() -> None:
    found = spans(RowCut(2, 10), 6, columns((0, 5), rows=(0, 2)))
    assert found == [(0, 6), (6, 10), (10, 16), (16, 20)]


def test_of_one_row_only_what_is_wanted_is_read() -> None:
    assert spans(RowCut(1, 40), 100, columns((10, 20)), columns((20, 30))) == [(10, 30)]
    assert spans(RowCut(1, 40), 100, columns((0, 10)), columns((30, 40))) == [(0, 10), (30, 40)]


def test_of_several_rows_only_those_of_the_wanted_experts_are_read() -> None:
    assert spans(RowCut(4, 10), 100, columns((0, 5), rows=(1, 3))) == [(10, 30)]


def test_what_several_places_share_is_read_once() -> None:
    assert spans(RowCut(1, 20), 100, columns((0, 10)), columns((0, 20))) == [(0, 20)]


def test_pieces_of_a_cast_tensor_are_whole_elements_of_the_source() -> None:
    found = RowCut(1, 20, Cast("F32", "BF16"))
    assert spans(found, 15, columns((0, 10))) == [(0, 12), (12, 20)]


@pytest.mark.parametrize("rows", [1, 3])
def test_an_empty_tensor_is_not_read(rows: int) -> None:
    assert spans(RowCut(rows, 0), 16, columns((0, 0), rows=(0, rows))) == []


def source(name: str, start: int, stop: int, key: str = "a") -> tuple[Piece, SourceTensor]:
    size = stop - start
    return Piece(name, 0, size), SourceTensor(name, "U8", (size,), key, start, stop)


def reads(*pieces: tuple[Piece, SourceTensor], chunk: int = 100) -> list[tuple[str, int, int]]:
    return [(read.key, read.start, read.stop) for read in source_reads(pieces, chunk)]


def test_neighbours_are_read_together() -> None:
    assert reads(source("x", 10, 20), source("y", 20, 50)) == [("a", 10, 50)]


def test_a_read_is_no_longer_than_a_chunk() -> None:
    assert reads(source("x", 0, 60), source("y", 60, 120)) == [("a", 0, 60), ("a", 60, 120)]


def test_what_is_apart_is_read_apart() -> None:
    assert reads(source("x", 0, 10), source("y", 20, 30)) == [("a", 0, 10), ("a", 20, 30)]


def test_files_are_read_apart() -> None:
    assert reads(source("x", 0, 10), source("y", 10, 20, key="b")) == [("a", 0, 10), ("b", 10, 20)]


def test_nothing_is_read_of_nothing() -> None:
    assert reads() == []
