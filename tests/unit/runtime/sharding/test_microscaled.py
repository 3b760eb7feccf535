"""gpt_oss as it is published: experts in MXFP4, blocks and scales in tensors of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import TensorCut
from tests.builders.plan import Shapes, cut_bytes, plan_of, random_bytes, recombined

CONFIG: Mapping[str, Any] = {
    "model_type": "gpt_oss",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "quantization_config": {"quant_method": "mxfp4"},
}
HOME = "model.layers.0.mlp.experts"
SHAPES: Shapes = {
    # 4 experts of 128 features, in a hidden state of 64: 2 and 4 blocks.
    f"{HOME}.gate_up_proj_blocks": ("U8", (4, 256, 2, 16)),
    f"{HOME}.gate_up_proj_scales": ("U8", (4, 256, 2)),
    f"{HOME}.gate_up_proj_bias": (4, 256),
    f"{HOME}.down_proj_blocks": ("U8", (4, 64, 4, 16)),
    f"{HOME}.down_proj_scales": ("U8", (4, 64, 4)),
    f"{HOME}.down_proj_bias": (4, 64),
}


def cuts(tensor: int, expert: int = 1, shapes: Shapes = SHAPES, **config: Any) -> dict[str, Any]:
    """How each tensor is cut, by the end of its name."""
    plan = plan_of({**CONFIG, **config}, shapes, Parallelism(tensor, expert=expert))
    assert plan.unmatched == ()
    return {name.rpartition(".")[2]: cut for name, cut in plan.cuts.items()}


def dimension(cut: TensorCut) -> int | None:
    axis = cut.axis("tensor")
    return None if axis is None else axis.dim


def test_blocks_and_scales_are_cut_with_the_weight_that_they_are() -> None:
    found = cuts(tensor=2)
    assert {name: (dimension(cut), cut.piece(1).shape) for name, cut in found.items()} == {
        "gate_up_proj_blocks": (1, (4, 128, 2, 16)),
        "gate_up_proj_scales": (1, (4, 128, 2)),
        "gate_up_proj_bias": (1, (4, 128)),
        "down_proj_blocks": (2, (4, 64, 2, 16)),
        "down_proj_scales": (2, (4, 64, 2)),
        "down_proj_bias": (None, (4, 64)),
    }


def test_experts_are_shared_out_first() -> None:
    found = cuts(tensor=2, expert=2)
    assert found["down_proj_blocks"].piece(1, 1).shape == (2, 64, 2, 16)
    assert found["down_proj_scales"].piece(1, 1).shape == (2, 64, 2)
    assert found["down_proj_bias"].piece(1, 1).shape == (2, 64)


@pytest.mark.parametrize("expert", [1, 2, 4])
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_every_byte_comes_back(tensor: int, expert: int) -> None:
    parallelism = Parallelism(tensor, expert=expert)
    for cut in cuts(tensor, expert).values():
        data = random_bytes(cut)
        assert recombined(cut, parallelism, cut_bytes(cut, parallelism, data)) == data


def test_a_cut_inside_of_a_block_is_refused() -> None:
    with pytest.raises(InvalidSharding, match="blocks of 32 inputs, and the cut at 16 is inside"):
        cuts(tensor=8)


@pytest.mark.parametrize(
    "changed",
    [
        {f"{HOME}.down_proj_scales": ("U8", (4, 64, 2))},
        {f"{HOME}.down_proj_blocks": ("U8", (4, 64, 4, 8))},
        {f"{HOME}.down_proj_scales": ("BF16", (4, 64, 4))},
    ],
)
def test_what_does_not_belong_together_is_refused(changed: Shapes) -> None:
    with pytest.raises(InvalidSharding, match="beside each other"):
        cuts(tensor=2, shapes={**SHAPES, **changed})


def test_blocks_of_another_method_are_refused() -> None:
    with pytest.raises(InvalidSharding, match="quant_method is mxfp8"):
        cuts(tensor=2, quantization_config={"quant_method": "mxfp8"})
