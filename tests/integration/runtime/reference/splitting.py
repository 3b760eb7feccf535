"""What a rank's shard holds, against what transformers' tensor parallelism puts on it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from transformers.core_model_loading import revert_weight_conversion
from transformers.distributed import DistributedConfig

from tests.integration.runtime.reference.cases import Case
from tests.integration.runtime.reference.shards import Tensors, class_of, read_shards
from tests.integration.runtime.reference.verdicts import (
    DAMAGED,
    OTHER,
    OURS,
    SAME,
    THEIRS,
    WHOLE,
)


def compare(case: Case, folder: Path, layout_uri: str, rank: int, world: int) -> dict[str, str]:
    """For each tensor of the checkpoint, how the two shards of it compare on this rank.

    Returns:
        One of the words of ``verdicts`` by tensor name.
    """
    ours, _ = read_shards(layout_uri, rank)
    theirs = _transformers_shards(case, folder, world)
    whole = _shapes(folder)
    return {name: _verdict(ours[name], theirs[name], whole[name]) for name in whole}


def _transformers_shards(case: Case, folder: Path, world: int) -> Tensors:
    """Local tensors of a model that transformers split, under the checkpoint's names."""
    model = class_of(case.model_type).from_pretrained(
        folder, distributed_config=DistributedConfig(tp_size=world), dtype=torch.float32
    )
    local = {
        name: tensor.to_local() if hasattr(tensor, "to_local") else tensor
        for name, tensor in model.state_dict().items()
    }
    found: Tensors = revert_weight_conversion(model, local)
    return found


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _verdict(ours: torch.Tensor, theirs: torch.Tensor, whole: tuple[int, ...]) -> str:
    we_split, they_split = tuple(ours.shape) != whole, tuple(theirs.shape) != whole
    if we_split != they_split:
        return OURS if we_split else THEIRS
    is_same = ours.shape == theirs.shape and torch.equal(
        ours.view(torch.int32), theirs.contiguous().view(torch.int32)
    )
    if we_split:
        return SAME if is_same else OTHER
    return WHOLE if is_same else DAMAGED
