from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from shardedmodel_runtime.checkpoint import CheckpointMetadata, SourceTensor
from shardedmodel_runtime.formats.dtypes import tensor_bytes
from shardedmodel_runtime.formats.hf import parse_config
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.architectures.styles import UnknownStyle, rules_of
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.families import FAMILIES

Shape = tuple[int, ...]


def cut(
    model_type: str, name: str, shape: Shape, tensor: int = 2, expert: int = 1, **config: Any
) -> TensorCut:
    """How the built-in rules cut one tensor, by default with 8 heads of 8 and 4 key-value heads."""
    heads: Mapping[str, Any] = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
    document = json.dumps({"model_type": model_type, **heads, **config}).encode()
    found = SourceTensor(name, "BF16", shape, "model.safetensors", 0, tensor_bytes("BF16", shape))
    metadata = CheckpointMetadata(parse_config(document), (), (), {name: found})
    plan = WeightDistributor(Parallelism(tensor, expert=expert)).plan(metadata)
    assert plan.unmatched == ()
    return plan.cuts[name]


def ranges(cut: TensorCut) -> tuple[int, Any]:
    """The dimension that tensor ranks share, and the ranges of each."""
    axis = cut.axis("tensor")
    assert axis is not None
    return axis.dim, axis.ranges


def halves(size: int) -> Any:
    return (((0, size // 2),), ((size // 2, size),))


@pytest.mark.parametrize(
    "name",
    [
        "layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "language_model.model.layers.1.self_attn.q_proj.weight",
        "model.language_model.layers.1.self_attn.q_proj.weight",
    ],
)
def test_prefixes_of_names_make_no_difference(name: str) -> None:
    assert ranges(cut("gemma3", name, (64, 16))) == (0, halves(64))


@pytest.mark.parametrize(
    "name",
    [
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "model.vision_tower.encoder.layers.0.mlp.fc1.bias",
        "multi_modal_projector.mm_input_projection_weight",
    ],
)
def test_the_image_tower_beside_a_language_model_stays_whole(name: str) -> None:
    assert cut("gemma3", name, (70, 30)[: 1 + name.endswith("weight")]).axes == ()


@pytest.mark.parametrize(
    ("model_type", "name", "shape", "dim", "local"),
    [
        # One tensor per expert on disk, under the names of three generations.
        ("mixtral", "model.layers.0.block_sparse_moe.experts.3.w1.weight", (32, 16), 0, (16, 16)),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.3.w2.weight", (16, 32), 1, (16, 16)),
        ("qwen3_moe", "model.layers.0.mlp.experts.3.up_proj.weight", (32, 16), 0, (16, 16)),
        ("deepseek_v3", "model.layers.9.mlp.experts.3.down_proj.weight", (16, 32), 1, (16, 16)),
        # Fused, as transformers keeps them in memory, or under a name of their own.
        ("qwen3_moe", "model.layers.0.mlp.experts.down_proj", (4, 16, 32), 2, (4, 16, 16)),
        (
            "granitemoe",
            "model.layers.0.block_sparse_moe.output_linear.weight",
            (4, 16, 32),
            2,
            (4, 16, 16),
        ),
        # Fused and transposed.
        (
            "llama4",
            "language_model.model.layers.0.feed_forward.experts.down_proj",
            (4, 32, 16),
            1,
            (4, 16, 16),
        ),
        ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj", (4, 16, 64), 2, (4, 16, 32)),
        ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias", (4, 64), 1, (4, 32)),
    ],
)
def test_experts_are_cut_inside_under_the_names_that_they_have_on_disk(
    model_type: str, name: str, shape: Shape, dim: int, local: Shape
) -> None:
    found = cut(model_type, name, shape)
    assert ranges(found)[0] == dim
    assert found.piece().shape == local


@pytest.mark.parametrize("model_type", ["llama4", "qwen3_moe"])
def test_gate_and_up_in_one_tensor_are_cut_each_by_itself(model_type: str) -> None:
    module = "feed_forward" if model_type == "llama4" else "mlp"
    shape = (2, 4, 16) if model_type == "llama4" else (2, 16, 4)
    found = cut(model_type, f"model.layers.0.{module}.experts.gate_up_proj", shape)
    assert ranges(found)[1] == (((0, 4), (8, 12)), ((4, 8), (12, 16)))


def test_experts_are_shared_out_among_expert_ranks_before_they_are_cut() -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert cut("qwen3_moe", name, (8, 16, 4), expert=4).piece().shape == (2, 8, 4)


def test_experts_biases_follow_their_weights() -> None:
    bias = cut("gpt_oss", "model.layers.0.mlp.experts.down_proj_bias", (4, 16))
    assert (bias.axes, bias.added_once) == ((), True)


def test_gpt2_is_cut_along_the_last_dimension_and_through_query_key_and_value() -> None:
    config: dict[str, Any] = {"num_key_value_heads": None, "n_head": 8}
    weight = cut("gpt2", "transformer.h.0.attn.c_attn.weight", (64, 192), **config)
    expected = (((0, 32), (64, 96), (128, 160)), ((32, 64), (96, 128), (160, 192)))
    assert ranges(weight) == (1, expected)
    assert ranges(cut("gpt2", "h.0.attn.c_attn.bias", (192,), **config)) == (0, expected)
    assert ranges(cut("gpt2", "h.0.mlp.c_proj.weight", (256, 64), **config))[0] == 0


@pytest.mark.parametrize("model_type", ["bloom", "gpt_neox", "persimmon"])
def test_heads_that_interleave_query_key_and_value_stay_together(model_type: str) -> None:
    module = "attention" if model_type == "gpt_neox" else "self_attention"
    name = f"layers.0.{module}.query_key_value.weight"
    found = cut(model_type, name, (192, 64), num_key_value_heads=None)
    assert ranges(found) == (0, halves(192))


def test_falcons_single_key_and_value_go_to_every_rank() -> None:
    config = {"multi_query": True, "new_decoder_architecture": False, "num_kv_heads": 8}
    name = "transformer.h.0.self_attention.query_key_value.weight"
    found = cut("falcon", name, (80, 64), num_key_value_heads=None, **config)
    assert ranges(found) == (0, (((0, 32), (64, 80)), ((32, 80),)))


def test_the_newer_falcons_groups_stay_together() -> None:
    config = {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 4}
    name = "transformer.h.0.self_attention.query_key_value.weight"
    found = cut("falcon", name, (128, 64), num_key_value_heads=None, **config)
    assert ranges(found) == (0, halves(128))


def test_falcons_without_shared_heads_are_cut_by_heads() -> None:
    config = {"multi_query": False, "new_decoder_architecture": False, "num_kv_heads": 8}
    name = "transformer.h.0.self_attention.query_key_value.bias"
    found = cut("falcon", name, (192,), num_key_value_heads=None, **config)
    assert ranges(found) == (0, halves(192))


@pytest.mark.parametrize(
    ("name", "shape", "dim"),
    [
        ("encoder.block.0.layer.0.SelfAttention.q.weight", (32, 16), 0),
        ("decoder.block.0.layer.1.EncDecAttention.v.weight", (32, 16), 0),
        ("decoder.block.0.layer.1.EncDecAttention.o.weight", (16, 32), 1),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, 8), 1),
        ("encoder.block.0.layer.1.DenseReluDense.wi_1.weight", (64, 16), 0),
        ("encoder.block.0.layer.1.DenseReluDense.wo.weight", (16, 64), 1),
        ("shared.weight", (64, 16), 0),
    ],
)
def test_both_halves_of_t5_are_cut_with_their_relative_positions_by_heads(
    name: str, shape: Shape, dim: int
) -> None:
    found = cut("t5", name, shape, num_key_value_heads=None, d_kv=4, head_dim=None)
    assert ranges(found) == (dim, halves(shape[dim]))


@pytest.mark.parametrize(
    ("name", "shape", "whole"),
    [
        ("model.layers.0.self_attn.q_a_proj.weight", (12, 16), True),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", (14, 16), True),
        ("model.layers.0.self_attn.q_b_proj.weight", (8 * 24, 12), False),
        ("model.layers.0.self_attn.kv_b_proj.weight", (8 * 32, 12), False),
        ("model.layers.3.mlp.gate.e_score_correction_bias", (6,), True),
        ("model.layers.61.eh_proj.weight", (16, 32), True),
    ],
)
def test_latent_attention_is_cut_by_query_heads_behind_its_bottleneck(
    name: str, shape: Shape, whole: bool
) -> None:
    assert (cut("deepseek_v3", name, shape).axes == ()) is whole


def test_gated_queries_are_cut_by_heads_of_twice_the_width() -> None:
    name = "model.layers.3.self_attn.q_proj.weight"
    assert ranges(cut("qwen3_next", name, (128, 16), tensor=8))[1][7] == ((112, 128),)


def test_dbrx_cuts_every_one_of_its_sixteen_experts() -> None:
    name = "transformer.blocks.0.ffn.experts.mlp.w1"
    first = ranges(cut("dbrx", name, (16 * 4, 8)))[1][0]
    assert first == tuple((4 * expert, 4 * expert + 2) for expert in range(16))


def test_a_style_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnknownStyle, match=r"layers\.\*\.mlp: style 'diagonal' has no strategy"):
        rules_of("layers.*.mlp", "diagonal")


def test_every_type_has_rules_and_none_else() -> None:
    assert all(FAMILIES[model_type] for model_type in FAMILIES)
    assert "nonesuch" not in FAMILIES
    assert len(FAMILIES) == len(set(FAMILIES))
