from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from shardedmodel_runtime.checkpoint import CheckpointMetadata, SourceTensor
from shardedmodel_runtime.formats.dtypes import tensor_bytes
from shardedmodel_runtime.formats.hf import parse_config
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.overview import PlanOverview, TensorGroup
from shardedmodel_runtime.sharding.rules import Rule
from tests.builders.checkpoint import llama_config, llama_shapes

Shapes = Mapping[str, tuple[int, ...]]


def overview(
    degrees: Parallelism, shapes: Shapes | None = None, rules: tuple[Rule, ...] = (), **config: Any
) -> PlanOverview:
    """Of a small Llama, or of other tensors with its configuration."""
    fields = llama_config(**config)
    tensors = {}
    for name, shape in (shapes or llama_shapes(fields)).items():
        size = tensor_bytes("BF16", shape)
        tensors[name] = SourceTensor(name, "BF16", shape, "model.safetensors", 0, size)
    model = parse_config(json.dumps(fields).encode())
    metadata = CheckpointMetadata(model, (), (), tensors)
    plan = WeightDistributor(degrees, rules, allow_unmatched=True).plan(metadata)
    return PlanOverview(plan, model)


def group(found: PlanOverview, pattern: str) -> TensorGroup:
    (one,) = [group for group in found.groups if group.pattern == pattern]
    return one


def test_tensors_that_differ_in_their_layer_alone_are_one_group() -> None:
    found = overview(Parallelism(2), num_hidden_layers=12)
    assert len(found.groups) == len(overview(Parallelism(2), num_hidden_layers=2).groups) == 12
    gate = group(found, "model.layers.*.mlp.gate_proj.weight")
    size = 12 * 128 * 64 * 2
    assert (gate.count, gate.nbytes, gate.rank_bytes) == (12, size, size // 2)


def test_stages_do_not_split_groups_and_a_rank_holds_its_stages_share() -> None:
    found = overview(Parallelism(2, pipeline=2), num_hidden_layers=4)
    gate = group(found, "model.layers.*.mlp.gate_proj.weight")
    assert (gate.count, gate.rank_bytes) == (4, 2 * 128 * 64)


def test_experts_of_one_expert_rank_are_one_group() -> None:
    shapes = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": (8, 4) for n in range(4)}
    rules = (Rule("*experts.*", "experts", inner="column"),)
    found = overview(Parallelism(2, expert=2), shapes, rules)
    one = group(found, "model.layers.*.mlp.experts.*.up_proj.weight")
    assert (one.count, one.rank_bytes) == (4, 2 * 8 * 4 * 2 // 2)


@pytest.mark.parametrize("degrees", [Parallelism(1), Parallelism(4), Parallelism(2, pipeline=2)])
def test_groups_and_ranks_hold_the_same_bytes(degrees: Parallelism) -> None:
    found = overview(degrees, vocab_size=256)
    if degrees.pipeline == 1:
        assert sum(group.rank_bytes for group in found.groups) == max(found.rank_bytes)
    assert max(found.rank_bytes) == found.rank_bytes[found.largest_rank]


def test_what_several_ranks_hold_whole_is_replicated() -> None:
    found = overview(Parallelism(2))
    assert {one.pattern for one in found.replicated} == {
        "model.layers.*.input_layernorm.weight",
        "model.layers.*.post_attention_layernorm.weight",
        "model.norm.weight",
    }
    assert found.replicated_bytes == 5 * 64 * 2
    assert overview(Parallelism(1)).replicated == []


def test_a_plan_that_fits_has_no_warnings() -> None:
    assert overview(Parallelism(4), vocab_size=256).warnings() == []


COLUMN = Rule("w", "column")


@pytest.mark.parametrize(
    ("found", "warning"),
    [
        (overview(Parallelism(4), vocab_size=250), "embed_tokens.weight: dimension 0 is padded"),
        (overview(Parallelism(8), vocab_size=512), "4 key-value heads are fewer than tensor"),
        (
            overview(Parallelism(2), {"w": (64, 8), "other": (8, 8)}, (COLUMN,)),
            "no rule matched 1 tensors of 128 bytes",
        ),
        (
            overview(Parallelism(2), {"w": (64, 8), "n": (512,)}, (COLUMN, Rule("n", "replicate"))),
            "67% of what a rank holds is replicated",
        ),
        (
            overview(Parallelism(2), {"w": (7, 8)}, (Rule("w", "column", uneven="chunk"),)),
            "dimension 0 of 7 is cut unevenly, 3 to 4 rows",
        ),
        (
            overview(Parallelism(16), {"w": (64, 8)}, (COLUMN,)),
            "w: a cut goes through an attention head",
        ),
        (
            overview(
                Parallelism(1, pipeline=2),
                {"model.embed_tokens.weight": (4096, 64)}
                | {f"model.layers.{n}.mlp.up_proj.weight": (128, 64) for n in range(2)},
                tie_word_embeddings=False,
            ),
            "stage 0 holds",
        ),
    ],
)
def test_what_is_worth_a_look_is_said(found: PlanOverview, warning: str) -> None:
    assert any(warning in text for text in found.warnings()), found.warnings()
