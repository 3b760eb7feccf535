"""Readers find each piece of an object where writers lay it."""

from __future__ import annotations

import numpy as np
import pytest

from shardedmodel_runtime.layout.placement import lay, numbers_in, place_tensors, writing_order
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut

HALVES = AxisCut("tensor", 0, (((0, 2),), ((2, 3),)), (0, 1))
CUTS = (
    TensorCut("BF16", (3, 5), "column", (HALVES,)),
    TensorCut("F32", (7,)),
    TensorCut("U8", (0,)),
    TensorCut("I16", ()),
)


@pytest.mark.parametrize("tensor", [0, 1])
def test_readers_place_pieces_as_writers_do(tensor: int) -> None:
    kinds = np.array([2, 0, 1, 3, 0, 1, 2, 1], np.int64)
    cuts = {f"t{number}": CUTS[kind] for number, kind in enumerate(kinds.tolist())}
    written = place_tensors(((name, cuts[name]) for name in writing_order(cuts)), tensor, 0)

    read = lay(np.arange(len(kinds)), kinds, CUTS, tensor, 0)

    assert [
        (f"t{number}", read.pieces[kind], start)
        for number, kind, start in zip(read.numbers, read.kinds, read.starts, strict=True)
    ] == [(one.name, one.piece, one.start) for one in written]


def test_an_object_without_tensors_has_no_pieces() -> None:
    nothing = numbers_in([])

    assert len(lay(nothing, nothing, CUTS, 0, 0).starts) == 0


def test_pieces_keep_the_numbers_of_their_runs() -> None:
    numbers = numbers_in([(1, 3), (7, 8)])

    assert lay(numbers, np.zeros(3, np.int64), CUTS, 0, 0).numbers.tolist() == [1, 2, 7]
