from __future__ import annotations

import pytest

from shardedmodel_runtime.checkpoint import SourceTensor
from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.layout.reading import (
    Piece,
    RowCut,
    row_cut,
    source_reads,
    tensor_pieces,
)
from shardedmodel_runtime.sharding.plan import TensorCut


def spans(cut: RowCut, chunk: int, ranks: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(piece.start, piece.stop) for piece in tensor_pieces("w", cut, chunk, ranks)]


def test_a_cut_of_the_first_dimension_is_one_row() -> None:
    cut = TensorCut("w", "F32", (4, 3), "column", 0, (((0, 2),), ((2, 4),)), (0, 1))
    assert row_cut(cut) == RowCut(1, 48, (((0, 24),), ((24, 48),)), (0, 12))


def test_a_cut_of_the_last_dimension_has_a_row_for_each_element_before_it() -> None:
    cut = TensorCut("w", "BF16", (5, 4), "row", 1, (((0, 2),), ((2, 4),)), (0, 0))
    assert row_cut(cut) == RowCut(5, 8, (((0, 4),), ((4, 8),)), (0, 0))


def test_a_replicated_tensor_is_one_row_for_one_receiver() -> None:
    assert row_cut(TensorCut("w", "F32", (2, 2))) == RowCut(1, 16, (((0, 16),),), (0,))


def test_a_cut_inside_a_byte_is_refused() -> None:
    cut = TensorCut("w", "F4", (2, 6), "row", 1, (((0, 3),), ((3, 6),)), (0, 0))
    with pytest.raises(InvalidSharding, match="inside a byte"):
        row_cut(cut)


def test_pieces_are_whole_rows_where_a_row_fits() -> None:
    cut = RowCut(5, 8, (((0, 4),), ((4, 8),)), (0, 0))
    assert spans(cut, 20, (0, 1)) == [(0, 16), (16, 32), (32, 40)]


def test_a_row_that_does_not_fit_is_read_in_parts() -> None:
    cut = RowCut(2, 10, (((0, 5),), ((5, 10),)), (0, 0))
    assert spans(cut, 6, (0, 1)) == [(0, 6), (6, 10), (10, 16), (16, 20)]


def test_of_one_row_only_what_the_ranks_need_is_read() -> None:
    cut = RowCut(1, 40, (((0, 10),), ((10, 20),), ((20, 30),), ((30, 40),)), (0,) * 4)
    assert spans(cut, 100, (1, 2)) == [(10, 30)]
    assert spans(cut, 100, (0, 3)) == [(0, 10), (30, 40)]


def test_what_several_ranks_share_is_read_once() -> None:
    cut = RowCut(1, 20, (((0, 10),), ((0, 10),), ((10, 20),)), (0,) * 3)
    assert spans(cut, 100, (0, 1, 2)) == [(0, 20)]


@pytest.mark.parametrize(
    "cut", [RowCut(1, 0, (((0, 0),),), (0,)), RowCut(3, 0, (((0, 0),),), (0,))]
)
def test_an_empty_tensor_is_not_read(cut: RowCut) -> None:
    assert spans(cut, 16, (0,)) == []


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
