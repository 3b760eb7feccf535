from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.sharding.stages import balance
from tests.builders.checkpoint import llama_config, llama_shapes
from tests.builders.plan import Shapes, plan_of


def stages_of(shapes: Shapes, pipeline: int, **config: Any) -> dict[str, tuple[int, ...] | None]:
    described = {"model_type": "made-up", **config}
    plan = plan_of(described, shapes, Parallelism(1, pipeline), [Rule("*", "replicate")])
    return {name: cut.stages for name, cut in plan.cuts.items()}


def layers(prefix: str, count: int, rows: int = 8) -> dict[str, Any]:
    return {f"{prefix}.{n}.mlp.weight": (rows, 8) for n in range(count)}


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_the_largest_stage_is_as_small_as_can_be(
    sizes: list[int], degree: int, first: int, last: int
) -> None:
    degree = min(degree, len(sizes))

    def largest(stages: list[int]) -> int:
        totals = [first, *[0] * (degree - 1)]
        totals[-1] += last
        for size, stage in zip(sizes, stages, strict=True):
            totals[stage] += size
        return max(totals)

    def shares(count: int, among: int) -> list[list[int]]:
        """Every way to give ``count`` layers to ``among`` stages, one at least to each."""
        if among == 1:
            return [[0] * count]
        return [
            [0] * here + [stage + 1 for stage in rest]
            for here in range(1, count - among + 2)
            for rest in shares(count - here, among - 1)
        ]

    found = balance(sizes, degree, first, last)
    assert found in shares(len(sizes), degree)
    assert largest(found) == min(largest(share) for share in shares(len(sizes), degree))


def test_embeddings_are_first_and_norm_and_head_last() -> None:
    config = llama_config(num_hidden_layers=4)
    stages = stages_of(llama_shapes(config), 2, **config)
    assert stages["model.embed_tokens.weight"] == (0,)
    assert stages["model.norm.weight"] == stages["lm_head.weight"] == (1,)
    found = [stages[f"model.layers.{n}.mlp.up_proj.weight"] for n in range(4)]
    assert found == [(0,), (0,), (1,), (1,)]


def test_all_tensors_of_a_layer_are_on_its_stage() -> None:
    config = llama_config(num_hidden_layers=4)
    stages = stages_of(llama_shapes(config), 4, **config)
    assert {stages[name] for name in stages if name.startswith("model.layers.2.")} == {(2,)}


def tied(**config: Any) -> tuple[int, ...] | None:
    shapes = {
        "model.embed_tokens.weight": (32, 8),
        **layers("model.layers", 3),
        "norm.weight": (8,),
    }
    return stages_of(shapes, 3, **config)["model.embed_tokens.weight"]


def test_tied_embeddings_are_on_the_first_and_the_last_stage() -> None:
    assert tied(tie_word_embeddings=True) == (0, 2)
    assert tied() == (0, 2)
    assert tied(tie_word_embeddings=False) == (0,)


@pytest.mark.parametrize(
    ("is_tied", "stages"), [(True, [0, 0, 1, 1, 1, 1, 2]), (False, [0, 1, 1, 1, 2, 2, 2])]
)
def test_tied_embeddings_count_on_both_stages(is_tied: bool, stages: list[int]) -> None:
    # As large as two layers.
    shapes = {"model.embed_tokens.weight": (16, 8), **layers("model.layers", 7)}
    found = stages_of(shapes, 3, tie_word_embeddings=is_tied)
    assert [found[f"model.layers.{n}.mlp.weight"] for n in range(7)] == [(n,) for n in stages]


def test_embeddings_beside_a_head_are_not_tied_whatever_is_said() -> None:
    shapes = {
        "embed_tokens.weight": (32, 8),
        **layers("layers", 3),
        "lm_head.weight": (32, 8),
    }
    assert stages_of(shapes, 3, tie_word_embeddings=True)["embed_tokens.weight"] == (0,)


def test_what_is_needed_everywhere_is_everywhere() -> None:
    shapes = {**layers("model.layers", 3), "model.rotary.inv_freq": (4,)}
    assert stages_of(shapes, 3)["model.rotary.inv_freq"] is None


def test_towers_of_other_modalities_are_on_the_first_stage() -> None:
    shapes = {
        **layers("model.visual.blocks", 6, rows=64),
        "model.visual.norm.weight": (8,),
        "multi_modal_projector.linear.weight": (8, 8),
        **layers("model.language_model.layers", 2),
    }
    stages = stages_of(shapes, 2)
    assert stages["model.visual.blocks.5.mlp.weight"] == (0,)
    assert stages["model.visual.norm.weight"] == (0,)
    assert stages["multi_modal_projector.linear.weight"] == (0,)
    assert stages["model.language_model.layers.1.mlp.weight"] == (1,)


def test_a_tower_alone_is_the_model() -> None:
    stages = stages_of(layers("vision_model.encoder.layers", 2), 2)
    assert list(stages.values()) == [(0,), (1,)]


def test_an_encoders_layers_come_before_the_decoders() -> None:
    shapes = {
        "shared.weight": (32, 8),
        **layers("encoder.block", 2),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (4, 2),
        "encoder.final_layer_norm.weight": (8,),
        "decoder.embed_positions.weight": (4, 8),
        **layers("decoder.block", 2),
        "decoder.final_layer_norm.weight": (8,),
        "lm_head.weight": (32, 8),
    }
    stages = stages_of(shapes, 4, is_encoder_decoder=True)
    assert [
        stages[f"{part}.block.{n}.mlp.weight"] for part in ("encoder", "decoder") for n in range(2)
    ] == [(0,), (1,), (2,), (3,)]
    assert stages["shared.weight"] == (0, 2)
    assert stages["encoder.final_layer_norm.weight"] == (1,)
    assert stages["decoder.embed_positions.weight"] == (2,)
    assert stages["decoder.final_layer_norm.weight"] == (3,)
    assert stages["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] == (0, 1)


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(InvalidSharding, match=r"pipeline: 3 stages cannot share 2 layers; use at"):
        stages_of(layers("layers", 2), 3)
