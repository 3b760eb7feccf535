from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.layout.placement import PlacedTensor
from shardedmodel_runtime.rank import saving
from shardedmodel_runtime.rank.saving import (
    check_tensor,
    host_chunks,
    save_from_ranks,
)
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.rank_layout import raw, write_layout

MATRIX = torch.arange(24, dtype=torch.int32).reshape(4, 6)


@pytest.mark.parametrize(
    "tensor",
    [
        MATRIX,
        MATRIX.t(),
        MATRIX[:, 1:3],
        MATRIX.reshape(2, 2, 6).permute(2, 0, 1),
        MATRIX.float().requires_grad_(),
        torch.tensor(7, dtype=torch.bfloat16),
        torch.empty(0, 3),
        torch.empty(3, 0).t(),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([True, False]),
    ],
)
@pytest.mark.parametrize("staging", [8, 20, 2**20])
def test_chunks_are_the_tensors_bytes_in_order(
    monkeypatch: pytest.MonkeyPatch, tensor: torch.Tensor, staging: int
) -> None:
    monkeypatch.setattr(saving, "STAGING_BYTES", staging)
    chunks = [bytes(chunk) for chunk in host_chunks(tensor)]
    assert b"".join(chunks) == raw(tensor.detach().resolve_conj())
    assert max(map(len, chunks), default=0) <= staging


def placed(dtype: str = "I32", pad: int = 0) -> PlacedTensor:
    """What a rank holds of ten rows of six: four of them, some of which may be pad."""
    axis = AxisCut("tensor", 0, (((0, 4 - pad),), ((4 - pad, 10),)), (pad, 0))
    cut = TensorCut(dtype, (10, 6), "column", (axis,))
    return PlacedTensor("w", cut, cut.piece(0, 0), 0)


def test_a_tensor_of_the_pieces_shape_and_dtype_is_taken() -> None:
    check_tensor(placed(), MATRIX)


@pytest.mark.parametrize("tensor", [MATRIX[:3], MATRIX.float(), MATRIX.reshape(6, 4)])
def test_a_tensor_of_another_shape_or_dtype_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ConfigurationError, match=r"'w' is .*, not torch\.int32 of \[4, 6\]"):
        check_tensor(placed(), tensor)


def test_pad_must_be_zero() -> None:
    padded = torch.cat([MATRIX[:3], torch.zeros(1, 6, dtype=torch.int32)])
    check_tensor(placed(pad=1), padded)
    with pytest.raises(ConfigurationError, match="not zero from index 3 on in dimension 0"):
        check_tensor(placed(pad=1), MATRIX)


def test_sub_byte_tensors_are_their_raw_bytes() -> None:
    check_tensor(placed("F4"), torch.zeros(12, dtype=torch.uint8))
    with pytest.raises(ConfigurationError, match=r"not torch\.uint8 of \[12\]"):
        check_tensor(placed("F4"), torch.zeros(4, 3, dtype=torch.uint8))


def test_a_group_of_another_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 3)
    layout = write_layout(tmp_path / "layout", 2)
    store = open_store(layout.uri)
    with pytest.raises(ConfigurationError, match="group: has 3 ranks, the layout was cut for 2"):
        save_from_ranks({}, store, store, layout.manifest)


def test_without_a_group_it_says_how_to_have_one(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", 2)
    store = open_store(layout.uri)
    with pytest.raises(ConfigurationError, match=r"no process group.* start them by torchrun"):
        save_from_ranks({}, store, store, layout.manifest)
