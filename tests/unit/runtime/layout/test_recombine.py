from __future__ import annotations

from pathlib import Path

import pytest

from shardedmodel_runtime.errors import ChecksumMismatch, LayoutError
from shardedmodel_runtime.layout.manifest import Manifest, ManifestTensor, PlacedTensor
from shardedmodel_runtime.layout.recombine import HeldPiece, recombine_ranks, recombine_tensor
from tests.builders_layout import Checkpoint, make_checkpoint, shard

CUT = ManifestTensor(dtype="U8", shape=[4], strategy="column", dim=0)
WHOLE = ManifestTensor(dtype="U8", shape=[4], strategy="replicate")


def piece(
    rank: int, data: bytes, *ranges: tuple[int, int], pad: int = 0, shape: list[int] | None = None
) -> HeldPiece:
    place = PlacedTensor(
        shape=shape or [len(data)], start=0, end=len(data), ranges=list(ranges), pad=pad
    )
    return HeldPiece(rank, place, data)


def test_pieces_make_the_tensor() -> None:
    pieces = [piece(1, b"cd", (2, 4)), piece(0, b"ab", (0, 2))]
    assert recombine_tensor("w", CUT, pieces) == b"abcd"


def test_ranges_in_several_parts_go_where_they_belong() -> None:
    pieces = [piece(0, b"ac", (0, 1), (2, 3)), piece(1, b"bd", (1, 2), (3, 4))]
    assert recombine_tensor("w", CUT, pieces) == b"abcd"


def test_columns_are_put_back_into_rows() -> None:
    tensor = ManifestTensor(dtype="U8", shape=[2, 3], strategy="row", dim=1)
    pieces = [piece(0, b"ad", (0, 1)), piece(1, b"bcef", (1, 3))]
    assert recombine_tensor("w", tensor, pieces) == b"abcdef"


def test_padding_is_dropped() -> None:
    pieces = [piece(0, b"abc", (0, 3)), piece(1, b"d\0\0", (3, 4), pad=2)]
    assert recombine_tensor("w", CUT, pieces) == b"abcd"


def test_padding_that_is_not_zero_is_refused() -> None:
    pieces = [piece(0, b"abc", (0, 3)), piece(1, b"d\0\1", (3, 4), pad=2)]
    with pytest.raises(ChecksumMismatch, match="rank 1's pad is not zero"):
        recombine_tensor("w", CUT, pieces)


def test_copies_of_the_same_rows_must_agree() -> None:
    pieces = [piece(0, b"abc", (0, 3)), piece(1, b"cd", (2, 4))]
    assert recombine_tensor("w", CUT, pieces) == b"abcd"
    pieces[1] = piece(1, b"xd", (2, 4))
    with pytest.raises(ChecksumMismatch, match=r"rank 1's copy of rows \[2, 3\)"):
        recombine_tensor("w", CUT, pieces)


def test_a_row_that_nobody_holds_is_named() -> None:
    with pytest.raises(LayoutError, match="nobody holds row 2"):
        recombine_tensor("w", CUT, [piece(0, b"ab", (0, 2)), piece(1, b"d", (3, 4))])


def test_a_piece_of_another_size_is_refused() -> None:
    with pytest.raises(LayoutError, match="rank 0 holds 3 bytes, 2 follow"):
        recombine_tensor("w", CUT, [piece(0, b"abc", (0, 2))])


def test_rows_beyond_the_tensor_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"names rows \[3, 5\) of 4"):
        recombine_tensor("w", CUT, [piece(0, b"ab", (3, 5))])


def test_copies_of_a_replicated_tensor_must_agree() -> None:
    assert recombine_tensor("w", WHOLE, [piece(0, b"abcd"), piece(1, b"abcd")]) == b"abcd"
    with pytest.raises(ChecksumMismatch, match="ranks 0 and 1 differ"):
        recombine_tensor("w", WHOLE, [piece(0, b"abcd"), piece(1, b"abcx")])


@pytest.mark.parametrize("pieces", [[], [piece(0, b"abc")]])
def test_a_replicated_tensor_must_be_there_whole(pieces: list[HeldPiece]) -> None:
    with pytest.raises(LayoutError):
        recombine_tensor("w", WHOLE, pieces)


def test_an_empty_tensor_is_empty() -> None:
    tensor = ManifestTensor(dtype="F32", shape=[0, 3], strategy="column", dim=0)
    assert recombine_tensor("w", tensor, [piece(0, b"", (0, 0), shape=[0, 3])]) == b""


def held_by_ranks(manifest: Manifest, folder: Path) -> dict[int, dict[str, bytes]]:
    """What each rank would hold, straight from the files."""
    held: dict[int, dict[str, bytes]] = {}
    for rank in range(manifest.world_size):
        held[rank] = {}
        for item in manifest.objects_of(rank):
            data = (folder / item.key).read_bytes()[item.data_start :]
            held[rank] |= {name: data[t.start : t.end] for name, t in item.tensors.items()}
    return held


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "source")


def test_what_ranks_hold_is_the_checkpoint_also_with_duplicated_heads(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    _, manifest, uri = shard(checkpoint.uri, tmp_path.as_uri(), 8)  # of 4 key-value heads
    held = held_by_ranks(manifest, Path(uri.removeprefix("file://")))
    assert dict(recombine_ranks(manifest, held)) == checkpoint.tensors


def test_a_rank_that_lacks_a_tensor_is_named(tmp_path: Path, checkpoint: Checkpoint) -> None:
    _, manifest, uri = shard(checkpoint.uri, tmp_path.as_uri(), 2)
    held = held_by_ranks(manifest, Path(uri.removeprefix("file://")))
    del held[1]["lm_head.weight"]
    with pytest.raises(LayoutError, match=r"'lm_head.weight': rank 1 does not hold it"):
        dict(recombine_ranks(manifest, held))
