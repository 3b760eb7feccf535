from __future__ import annotations

from pathlib import Path

import pytest

from shardedmodel_runtime.errors import ChecksumMismatch, LayoutError
from shardedmodel_runtime.layout.reading import Share
from shardedmodel_runtime.layout.recombine import HeldPiece, recombine_tensor
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut
from tests.builders.layout import (
    Checkpoint,
    held_by_ranks,
    make_checkpoint,
    recombine_ranks,
    shard,
)


def cut(dim: int, *shape: int) -> TensorCut:
    """A tensor of bytes that is cut along ``dim``; how, the pieces say."""
    return TensorCut("U8", shape, "any", (AxisCut("tensor", dim, (), ()),))


CUT = cut(0, 4)
WHOLE = TensorCut("U8", (4,))


def piece(
    rank: int,
    data: bytes,
    *columns: tuple[int, int],
    rows: tuple[tuple[int, int], ...] = ((0, 1),),
    pad: int = 0,
) -> HeldPiece:
    return HeldPiece(rank, Share(rows, columns, pad), data)


def test_pieces_make_the_tensor() -> None:
    pieces = [piece(1, b"cd", (2, 4)), piece(0, b"ab", (0, 2))]
    assert recombine_tensor("w", CUT, pieces) == b"abcd"


def test_ranges_in_several_parts_go_where_they_belong() -> None:
    pieces = [piece(0, b"ac", (0, 1), (2, 3)), piece(1, b"bd", (1, 2), (3, 4))]
    assert recombine_tensor("w", CUT, pieces) == b"abcd"


def test_columns_are_put_back_into_rows() -> None:
    both = ((0, 2),)
    pieces = [piece(0, b"ad", (0, 1), rows=both), piece(1, b"bcef", (1, 3), rows=both)]
    assert recombine_tensor("w", cut(1, 2, 3), pieces) == b"abcdef"


def test_pieces_of_some_columns_of_some_rows_make_the_tensor() -> None:
    first, second = ((0, 1),), ((1, 2),)
    pieces = [
        piece(0, b"a", (0, 1), rows=first),
        piece(1, b"b", (1, 2), rows=first),
        piece(2, b"c", (0, 1), rows=second),
        piece(3, b"d", (1, 2), rows=second),
    ]
    assert recombine_tensor("w", cut(1, 2, 2), pieces) == b"abcd"
    with pytest.raises(LayoutError, match=r"nobody holds bytes \[1, 2\) of rows \[1, 2\) of 2"):
        recombine_tensor("w", cut(1, 2, 2), pieces[:3])


def test_padding_is_dropped() -> None:
    pieces = [piece(0, b"abc", (0, 3)), piece(1, b"d\0\0", (3, 4), pad=2)]
    assert recombine_tensor("w", CUT, pieces) == b"abcd"


def test_padding_that_is_not_zero_is_refused() -> None:
    pieces = [piece(0, b"abc", (0, 3)), piece(1, b"d\0\1", (3, 4), pad=2)]
    with pytest.raises(ChecksumMismatch, match="rank 1's pad is not zero"):
        recombine_tensor("w", CUT, pieces)


def test_copies_of_the_same_bytes_must_agree() -> None:
    pieces = [piece(0, b"abc", (0, 3)), piece(1, b"cd", (2, 4))]
    assert recombine_tensor("w", CUT, pieces) == b"abcd"
    pieces[1] = piece(1, b"xd", (2, 4))
    with pytest.raises(ChecksumMismatch, match=r"rank 1's copy of bytes \[2, 3\)"):
        recombine_tensor("w", CUT, pieces)


def test_bytes_that_nobody_holds_are_named() -> None:
    with pytest.raises(LayoutError, match=r"nobody holds bytes \[2, 3\)"):
        recombine_tensor("w", CUT, [piece(0, b"ab", (0, 2)), piece(1, b"d", (3, 4))])


def test_a_piece_of_another_size_is_refused() -> None:
    with pytest.raises(LayoutError, match="rank 0 holds 3 bytes, 2 follow"):
        recombine_tensor("w", CUT, [piece(0, b"abc", (0, 2))])


def test_copies_of_a_replicated_tensor_must_agree() -> None:
    whole = (0, 4)
    pieces = [piece(0, b"abcd", whole), piece(1, b"abcd", whole)]
    assert recombine_tensor("w", WHOLE, pieces) == b"abcd"
    with pytest.raises(ChecksumMismatch, match="rank 1's copy"):
        recombine_tensor("w", WHOLE, [pieces[0], piece(1, b"abcx", whole)])


def test_a_tensor_that_nobody_holds_is_named() -> None:
    with pytest.raises(LayoutError, match="'w': nobody holds it"):
        recombine_tensor("w", WHOLE, [])


def test_an_empty_tensor_is_empty() -> None:
    assert recombine_tensor("w", cut(0, 0, 3), [piece(0, b"")]) == b""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "source")


def test_what_ranks_hold_is_the_checkpoint_also_with_duplicated_heads(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    _, manifest, uri = shard(checkpoint.uri, tmp_path.as_uri(), 8)  # of 4 key-value heads
    held = held_by_ranks(manifest, Path(uri.removeprefix("file://")))
    assert recombine_ranks(manifest, held) == checkpoint.tensors
