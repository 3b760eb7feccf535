"""Models whose layers have different numbers of heads: each layer is cut by its own."""

from __future__ import annotations

from typing import Any

import pytest

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.rules import Rule
from tests.builders.plan import Shapes, headers, plan_of

GEMMA: dict[str, Any] = {
    "model_type": "gemma4_text",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "per_layer_config": {"1": {"head_dim": 16, "num_key_value_heads": 2}},
}
KEY_OF_SLIDING = "model.layers.0.self_attn.k_proj.weight"
KEY_OF_GLOBAL = "model.layers.1.self_attn.k_proj.weight"
QUERY_OF_GLOBAL = "model.layers.1.self_attn.q_proj.weight"
SHAPES: Shapes = {KEY_OF_SLIDING: (32, 4), KEY_OF_GLOBAL: (32, 4), QUERY_OF_GLOBAL: (128, 4)}


def ranges(config: dict[str, Any], shapes: Shapes, tensor: int, name: str) -> list[tuple[int, int]]:
    """The one range of each rank."""
    axis = plan_of(config, shapes, Parallelism(tensor)).cuts[name].axis("tensor")
    assert axis is not None
    return [span for [span] in axis.ranges]


def test_fewer_heads_of_one_layer_are_repeated_there_alone() -> None:
    of_sliding = ranges(GEMMA, SHAPES, 4, KEY_OF_SLIDING)
    assert of_sliding == [(0, 8), (8, 16), (16, 24), (24, 32)]
    of_global = ranges(GEMMA, SHAPES, 4, KEY_OF_GLOBAL)
    assert of_global == [(0, 16), (0, 16), (16, 32), (16, 32)]


def test_a_layer_with_more_heads_is_cut_by_those() -> None:
    config = {"model_type": "mimo_v2_flash", "num_attention_heads": 8, "head_dim": 8}
    config |= {"num_key_value_heads": 2, "hybrid_layer_pattern": [1, 0]}
    shapes: Shapes = {KEY_OF_SLIDING: (32, 4), KEY_OF_GLOBAL: (16, 4)}
    assert ranges(config, shapes, 4, KEY_OF_SLIDING) == [(0, 8), (8, 16), (16, 24), (24, 32)]
    assert ranges(config, shapes, 4, KEY_OF_GLOBAL) == [(0, 8), (0, 8), (8, 16), (8, 16)]


def test_ranks_that_one_layer_cannot_share_are_refused_with_its_number_of_heads() -> None:
    config = {**GEMMA, "num_attention_heads": 12, "num_key_value_heads": 6}
    shapes: Shapes = {KEY_OF_SLIDING: (48, 4), KEY_OF_GLOBAL: (32, 4)}
    with pytest.raises(InvalidSharding, match="3 ranks cannot share the 2 key-value heads"):
        plan_of(config, shapes, Parallelism(3))


def test_layers_that_differ_without_the_configuration_saying_so_are_refused() -> None:
    config = {**GEMMA, "per_layer_config": {}}
    shapes: Shapes = {KEY_OF_SLIDING: (32, 4), KEY_OF_GLOBAL: (64, 4)}
    with pytest.raises(InvalidSharding, match="per_layer_config"):
        plan_of(config, shapes, Parallelism(2))


def test_a_layer_beside_the_others_that_has_the_heads_of_another_is_refused() -> None:
    further = "model.mtp.layers.0.self_attn.k_proj.weight"
    shapes: Shapes = {**SHAPES, further: (48, 4)}
    with pytest.raises(InvalidSharding, match=r"mtp\.layers\.0\..*expects 32 outputs"):
        plan_of(GEMMA, shapes, Parallelism(2))
    plan = plan_of(GEMMA, shapes, Parallelism(2), [Rule("*.mtp.*", "replicate")])
    assert plan.cuts[further].axes == ()


def test_metadata_that_travels_keeps_the_heads_of_layers() -> None:
    metadata = headers(GEMMA, SHAPES)
    assert CheckpointMetadata.from_json(metadata.to_json()) == metadata
