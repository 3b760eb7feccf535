from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardedmodel_runtime.checkpoint import CheckpointMetadata, SourceTensor
from shardedmodel_runtime.errors import InvalidSharding, UnsupportedArchitecture
from shardedmodel_runtime.formats.dtypes import tensor_bytes
from shardedmodel_runtime.formats.hf import parse_config
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.families import FAMILIES
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.sharding.rules import Rule
from tests.builders.checkpoint import (
    MOE_RULES,
    bert_config,
    bert_shapes,
    llama_config,
    llama_shapes,
    moe_config,
    moe_shapes,
)
from tests.builders.plan import manifest_of

Shapes = Mapping[str, tuple[int, ...]]


def checkpoint(config: Mapping[str, Any], shapes: Shapes) -> CheckpointMetadata:
    tensors = {}
    for name, shape in shapes.items():
        size = tensor_bytes("BF16", shape)
        tensors[name] = SourceTensor(name, "BF16", shape, "model.safetensors", 0, size)
    return CheckpointMetadata(parse_config(json.dumps(config).encode()), (), (), tensors)


def plan_llama(tensor: int, rules: list[Rule] | None = None, **config: Any) -> ShardingPlan:
    changed = llama_config(**config)
    metadata = checkpoint(changed, llama_shapes(changed))
    return WeightDistributor(Parallelism(tensor), rules or []).plan(metadata)


def plan_bert(tensor: int) -> ShardingPlan:
    config = bert_config()
    return WeightDistributor(Parallelism(tensor)).plan(checkpoint(config, bert_shapes(config)))


def plan_one(shape: tuple[int, ...], strategy: str, tensor: int, **config: Any) -> TensorCut:
    metadata = checkpoint(llama_config(**config), {"w": shape})
    return WeightDistributor(Parallelism(tensor), [Rule("w", strategy)]).plan(metadata).cuts["w"]


@pytest.mark.parametrize(
    ("name", "strategy", "local"),
    [
        ("model.embed_tokens.weight", "vocab", (96, 64)),
        ("model.layers.0.self_attn.q_proj.weight", "heads", (16, 64)),
        ("model.layers.0.self_attn.k_proj.weight", "heads", (8, 64)),
        ("model.layers.0.self_attn.o_proj.weight", "row", (64, 16)),
        ("model.layers.1.mlp.gate_proj.weight", "column", (32, 64)),
        ("model.layers.1.mlp.down_proj.weight", "row", (64, 32)),
        ("model.norm.weight", "replicate", (64,)),
        ("lm_head.weight", "vocab", (96, 64)),
    ],
)
def test_a_llama_is_cut_as_megatron_cuts_it(
    name: str, strategy: str, local: tuple[int, ...]
) -> None:
    cut = plan_llama(4, vocab_size=380).cuts[name]
    assert (cut.strategy, cut.piece(1).shape) == (strategy, local)


@pytest.mark.parametrize(
    ("name", "strategy", "local"),
    [
        ("embeddings.word_embeddings.weight", "vocab", (64, 32)),
        ("embeddings.position_embeddings.weight", "replicate", (16, 32)),
        ("encoder.layer.0.attention.self.query.weight", "heads", (16, 32)),
        ("encoder.layer.0.attention.self.query.bias", "heads", (16,)),
        ("encoder.layer.0.attention.output.dense.weight", "row", (32, 16)),
        ("encoder.layer.0.attention.output.dense.bias", "row", (32,)),
        ("encoder.layer.1.intermediate.dense.bias", "column", (32,)),
        ("encoder.layer.1.output.dense.weight", "row", (32, 32)),
        ("encoder.layer.1.output.LayerNorm.weight", "replicate", (32,)),
        ("pooler.dense.weight", "replicate", (32, 32)),
    ],
)
def test_a_bert_is_cut_with_its_biases(name: str, strategy: str, local: tuple[int, ...]) -> None:
    cut = plan_bert(2).cuts[name]
    assert (cut.strategy, cut.piece(1).shape) == (strategy, local)


@pytest.mark.parametrize("plan", [plan_llama(2), plan_bert(2)], ids=["llama", "bert"])
def test_the_built_in_rules_name_every_tensor(plan: ShardingPlan) -> None:
    assert plan.unmatched == ()


def test_prefixes_of_other_model_classes_make_no_difference() -> None:
    config = bert_config()
    shapes = {f"bert.{name}": shape for name, shape in bert_shapes(config).items()}
    plan = WeightDistributor(Parallelism(2)).plan(checkpoint(config, shapes))
    assert plan.cuts["bert.encoder.layer.0.attention.self.key.weight"].strategy == "heads"
    assert plan.unmatched == ()


def test_a_tensor_that_nothing_names_is_replicated_and_reported() -> None:
    config = llama_config()
    shapes = {**llama_shapes(config), "model.vision.patch": (7, 3)}
    plan = WeightDistributor(Parallelism(2)).plan(checkpoint(config, shapes))
    assert plan.unmatched == ("model.vision.patch",)
    assert plan.unmatched_bytes == 42
    assert plan.cuts["model.vision.patch"].axes == ()


def test_more_than_half_of_a_checkpoint_has_to_be_named() -> None:
    metadata = checkpoint({"model_type": "mystery"}, {"a": (8, 8), "b": (9, 8)})
    rules = [Rule("a", "column")]
    with pytest.raises(
        InvalidSharding, match=r"no rule matches 1 tensors of 144 bytes, .* 272 \(b"
    ):
        WeightDistributor(Parallelism(2), rules).plan(metadata)
    allowed = WeightDistributor(Parallelism(2), rules, allow_unmatched=True).plan(metadata)
    assert allowed.unmatched == ("b",)


def test_a_bias_follows_its_weight_where_no_rule_names_it() -> None:
    shapes = {"up.weight": (8, 4), "up.bias": (8,), "down.weight": (4, 8), "down.bias": (4,)}
    rules = [Rule("up.weight", "column"), Rule("down.weight", "row")]
    metadata = checkpoint({"model_type": "mystery"}, shapes)
    cuts = WeightDistributor(Parallelism(2), rules).plan(metadata).cuts
    assert (cuts["up.bias"].piece(1).shape, cuts["up.bias"].added_once) == ((4,), False)
    assert (cuts["down.bias"].piece(1).shape, cuts["down.bias"].added_once) == ((4,), True)


def test_tensors_that_are_cut_alike_share_one_cut() -> None:
    plan = plan_llama(2, num_hidden_layers=8)
    first, last = (plan.cuts[f"model.layers.{n}.mlp.up_proj.weight"] for n in (0, 7))
    assert first is last
    assert len(plan.kinds) == len(plan_llama(2).kinds)
    assert sum(plan.counts) == len(plan.cuts)


def test_a_plan_grows_with_tensors_and_not_with_pieces() -> None:
    config = moe_config(num_hidden_layers=8, experts=64)
    degrees = Parallelism(4, 2, 8)
    plan = WeightDistributor(degrees, MOE_RULES).plan(checkpoint(config, moe_shapes(config)))
    smaller = moe_config(num_hidden_layers=4, experts=8)
    shapes = moe_shapes(smaller)
    few = WeightDistributor(degrees, MOE_RULES).plan(checkpoint(smaller, shapes))
    assert len(plan.kinds) == len(few.kinds)
    assert len(manifest_of(plan).to_bytes()) < 120 * len(plan.cuts) + 50_000


@pytest.mark.parametrize(
    ("dtype", "stored"), [("keep", "BF16"), ("bfloat16", "BF16"), ("float32", "F32")]
)
def test_what_is_cast_remembers_what_it_was(dtype: str, stored: str) -> None:
    config = llama_config()
    metadata = checkpoint(config, llama_shapes(config))
    cut = WeightDistributor(Parallelism(2), dtype=dtype).plan(metadata).cuts["lm_head.weight"]
    assert (cut.dtype, cut.cast_from) == (stored, None if stored == "BF16" else "BF16")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InvalidSharding, match=r"sharding\.dtype: 'int8' is not one of \['keep'"):
        WeightDistributor(Parallelism(2), dtype="int8")


@pytest.mark.parametrize("name", ["self_attn.q_proj.qweight", "mlp.up_proj.scales"])
def test_a_packed_weight_is_refused_where_the_configuration_does_not_say_how(name: str) -> None:
    config = llama_config()
    metadata = checkpoint(config, {f"model.layers.0.{name}": (64, 8)})
    with pytest.raises(InvalidSharding, match="quant_method is missing"):
        WeightDistributor(Parallelism(2)).plan(metadata)


def test_cuts_keep_the_order_of_the_source() -> None:
    config = llama_config()
    assert list(plan_llama(2).cuts) == list(llama_shapes(config))


def axis_of(cut: TensorCut) -> AxisCut:
    """The one dimension that is cut."""
    [axis] = cut.axes
    return axis


def reassembled(cut: TensorCut) -> list[int]:
    """All indices along the cut dimension that the ranks hold, rank after rank."""
    return [
        n for ranges in axis_of(cut).ranges for start, stop in ranges for n in range(start, stop)
    ]


sizes = st.integers(1, 300)
degrees = st.integers(1, 16)


@given(sizes, degrees)
def test_vocab_gives_every_row_to_one_rank_and_equal_shapes_to_all(size: int, tensor: int) -> None:
    cut = plan_one((size, 2), "vocab", tensor)
    assert reassembled(cut) == list(range(size))
    assert len({cut.piece(rank).shape for rank in range(tensor)}) == 1
    assert cut.piece(0).shape[0] * tensor % 64 == 0


@given(st.integers(1, 20), degrees, st.sampled_from(["column", "row"]))
def test_column_and_row_give_every_index_to_one_rank(
    share: int, tensor: int, strategy: str
) -> None:
    cut = plan_one((share * tensor, share * tensor), strategy, tensor)
    assert reassembled(cut) == list(range(share * tensor))
    assert axis_of(cut).dim == (0 if strategy == "column" else 1)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_key_value_heads_go_to_the_ranks_whose_queries_use_them(shared: int, tensor: int) -> None:
    plan = plan_llama(tensor, num_key_value_heads=shared)
    query = plan.cuts["model.layers.0.self_attn.q_proj.weight"]
    key = plan.cuts["model.layers.0.self_attn.k_proj.weight"]
    for rank in range(tensor):
        queries = {
            n // 8 for start, stop in axis_of(query).ranges[rank] for n in range(start, stop)
        }
        keys = {n // 8 for start, stop in axis_of(key).ranges[rank] for n in range(start, stop)}
        assert keys == {head // (8 // shared) for head in queries}


@pytest.mark.parametrize("tensor", [1, 2, 4, 8])
def test_all_ranks_of_a_plan_hold_equally_much(tensor: int) -> None:
    plan = plan_llama(tensor)
    assert len({plan.rank_bytes(rank) for rank in range(tensor)}) == 1


def test_local_bytes_are_those_of_the_local_shape() -> None:
    cut = plan_one((8, 6), "row", 2)
    assert cut.local_bytes(1) == int(np.prod(cut.piece(1).shape)) * 2
    assert cut.nbytes == 96


def test_three_ranks_for_four_key_value_heads_are_refused_with_what_works() -> None:
    with pytest.raises(
        InvalidSharding, match=r"parallelism\.tensor: 3 .* use one of \[1, 2, 4, 12\]"
    ):
        plan_llama(3, num_attention_heads=12, hidden_size=96, vocab_size=192)


def test_heads_are_refused_before_tensors_that_cannot_say_what_works() -> None:
    config = llama_config(intermediate_size=128)
    shapes = dict(sorted(llama_shapes(config).items()))
    with pytest.raises(InvalidSharding, match=r"3 ranks cannot share the 4 key-value heads"):
        WeightDistributor(Parallelism(3)).plan(checkpoint(config, shapes))


def test_what_works_is_bounded_whatever_the_configuration_says() -> None:
    with pytest.raises(InvalidSharding, match=r"use one of \[1, 2, .*, 1024\]$"):
        plan_one(
            (65536, 4), "heads", 3, num_attention_heads=65536, num_key_value_heads=65536, head_dim=1
        )


def test_a_cut_inside_a_byte_is_refused_with_the_dtype() -> None:
    tensor = SourceTensor("w", "F4", (4, 6), "model.safetensors", 0, 12)
    config = parse_config(json.dumps(llama_config()).encode())
    metadata = CheckpointMetadata(config, (), (), {"w": tensor})
    with pytest.raises(InvalidSharding, match="inside a byte, for F4 has 4 bits; use 'replicate'"):
        WeightDistributor(Parallelism(2), [Rule("w", "row")]).plan(metadata)
    even = WeightDistributor(Parallelism(3), [Rule("w", "row")]).plan(metadata)
    assert even.cuts["w"].local_bytes(0) == 4


def test_more_ranks_than_heads_are_refused() -> None:
    with pytest.raises(InvalidSharding, match=r"16 ranks cannot share the 8 attention heads"):
        plan_llama(16)


@pytest.mark.parametrize(
    ("shape", "strategy", "message"),
    [
        ((7, 4), "column", "dimension 0 of size 7 .* use a number of ranks that divides it"),
        ((4, 7), "row", "dimension 1 of size 7"),
        ((4,), "row", "at least two dimensions"),
        ((), "column", "at least one dimension"),
        ((), "vocab", "at least one dimension"),
        ((10, 4), "heads", "needs 8 query or 4 key-value heads of 8"),
    ],
)
def test_a_strategy_that_does_not_fit_the_shape_is_refused(
    shape: tuple[int, ...], strategy: str, message: str
) -> None:
    with pytest.raises(InvalidSharding, match=message):
        plan_one(shape, strategy, 2)


def test_heads_need_to_be_counted_in_the_configuration() -> None:
    metadata = checkpoint({"model_type": "mystery"}, {"w": (8, 8)})
    with pytest.raises(InvalidSharding, match="num_attention_heads"):
        WeightDistributor(Parallelism(2), [Rule("w", "heads")]).plan(metadata)


def test_a_rule_of_the_user_comes_before_the_built_in_one() -> None:
    plan = plan_llama(2, [Rule("*lm_head.weight", "replicate")])
    assert plan.cuts["lm_head.weight"].axes == ()
    assert plan.cuts["model.embed_tokens.weight"].strategy == "vocab"


def test_a_rule_that_matches_nothing_is_refused() -> None:
    with pytest.raises(InvalidSharding, match=r"'\*\.typo' matches no tensor"):
        plan_llama(2, [Rule("*.typo", "column")])


def test_an_unknown_strategy_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidSharding, match="use one of"):
        WeightDistributor(Parallelism(2), [Rule("*", "diagonal")])


def test_an_unknown_architecture_is_refused_with_a_rule_to_write() -> None:
    metadata = checkpoint({"model_type": "mystery"}, {"block.0.up.weight": (8, 8)})
    with pytest.raises(UnsupportedArchitecture, match=r"match: 'block\.0\.up\.weight'"):
        WeightDistributor(Parallelism(2)).plan(metadata)


def test_plans_that_cut_alike_have_one_digest_and_others_another() -> None:
    same = plan_llama(2, [Rule("*.mlp.up_proj.*", "column")])
    assert plan_llama(2).digest() == same.digest() != plan_llama(4).digest()


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_rule_of_every_family_names_a_strategy_that_exists(model_type: str) -> None:
    WeightDistributor(Parallelism(2), FAMILIES[model_type])
