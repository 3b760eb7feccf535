from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardedmodel_runtime.errors import LayoutError
from shardedmodel_runtime.layout.assembling import Holding, TensorAssembly

WIDTHS = {"U8": 1, "I32": 4}


@st.composite
def partitions(draw: st.DrawFn, size: int) -> list[tuple[tuple[int, int], ...]]:
    """Ranges of a dimension for each of a few ranks: they cover it, and may share parts of it."""
    edges = sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))})
    spans = list(pairwise(edges))
    ranks = draw(st.integers(1, 3))
    owners = [draw(st.sets(st.integers(0, ranks - 1), min_size=1)) for _ in spans]
    return [
        tuple(span for span, owner in zip(spans, owners, strict=True) if rank in owner)
        for rank in range(ranks)
    ]


@st.composite
def cut_tensors(draw: st.DrawFn) -> tuple[bytes, TensorAssembly, dict[str, bytes]]:
    """A tensor, how it is assembled, and the objects that its pieces lie in."""
    dtype = draw(st.sampled_from(sorted(WIDTHS)))
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
    count = int(np.prod(shape, dtype=np.int64)) * WIDTHS[dtype]
    whole = (np.arange(count) % 251).astype(np.uint8)
    grid = whole.reshape(*shape, WIDTHS[dtype])
    dims = draw(st.permutations(range(len(shape))))[: draw(st.integers(0, 2))]
    pieces: list[dict[int, tuple[tuple[int, int], ...]]] = [{}]
    for dim in dims:
        parts = draw(partitions(shape[dim]))
        pieces = [piece | {dim: part} for piece in pieces for part in parts]
    objects, holdings = {}, []
    for number, ranges in enumerate(pieces):
        held = grid
        for dim, spans in ranges.items():
            index = [row for begin, end in spans for row in range(begin, end)]
            pad = [(0, 0)] * held.ndim
            pad[dim] = (0, draw(st.integers(0, 2)))
            held = np.pad(held.take(index, axis=dim), pad)
        objects[f"{number}"] = b"before" + held.tobytes()
        holdings.append(Holding(f"{number}", len(b"before"), held.shape[:-1], ranges))
    return whole.tobytes(), TensorAssembly("w", dtype, shape, holdings), objects


@given(cut_tensors(), st.data())
@settings(max_examples=300)
def test_any_span_of_a_tensor_is_found_in_its_pieces(
    case: tuple[bytes, TensorAssembly, dict[str, bytes]], data: st.DataObject
) -> None:
    whole, assembly, objects = case
    assert assembly.nbytes == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    span, times = bytearray(stop - start), bytearray(stop - start)
    for block in assembly.blocks(start, stop):
        for row in range(block.rows):
            begin = block.start + row * block.stride
            target = block.target + row * block.target_stride
            span[target : target + block.width] = objects[block.key][begin : begin + block.width]
            for place in range(target, target + block.width):
                times[place] += 1
    assert bytes(span) == whole[start:stop]
    assert set(times) <= {1}


def test_a_cut_along_the_first_dimension_is_read_in_one_stretch_of_each_piece() -> None:
    holdings = [Holding(f"{n}", 0, (2, 3), {0: ((2 * n, 2 * n + 2),)}) for n in range(2)]
    blocks = list(TensorAssembly("w", "U8", (4, 3), holdings).blocks(0, 12))
    assert [(block.key, block.start, block.stop) for block in blocks] == [("0", 0, 6), ("1", 0, 6)]


def test_a_cut_along_an_inner_dimension_is_read_in_rows_of_each_piece() -> None:
    holdings = [Holding(f"{n}", 0, (4, 3), {1: ((3 * n, 3 * n + 3),)}) for n in range(2)]
    blocks = list(TensorAssembly("w", "U8", (4, 6), holdings).blocks(6, 18))
    assert [(block.key, block.start, block.stop) for block in blocks] == [("0", 3, 9), ("1", 3, 9)]


def test_what_nobody_holds_is_no_tensor() -> None:
    assembly = TensorAssembly("w", "U8", (4,), [Holding("0", 0, (2,), {0: ((0, 2),)})])
    with pytest.raises(LayoutError, match="'w': nobody holds all of row 0"):
        list(assembly.blocks(0, 4))
