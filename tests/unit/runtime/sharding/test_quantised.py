from __future__ import annotations

from typing import Any

import pytest

from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.sharding.rules import Rule
from tests.builders.plan import plan_of

OUT, IN, GROUP = 64, 128, 32


def quantised(method: str, **fields: Any) -> dict[str, Any]:
    return {"model_type": "made-up", "quantization_config": {"quant_method": method, **fields}}


def gptq(**fields: Any) -> dict[str, Any]:
    return quantised("gptq", bits=4, group_size=GROUP, **fields)


GPTQ = {
    "m.qweight": ("I32", (IN // 8, OUT)),
    "m.qzeros": ("I32", (IN // GROUP, OUT // 8)),
    "m.scales": ("F16", (IN // GROUP, OUT)),
    "m.g_idx": ("I32", (IN,)),
    "m.bias": ("F16", (OUT,)),
}
AWQ = {
    "m.qweight": ("I32", (IN, OUT // 8)),
    "m.qzeros": ("I32", (IN // GROUP, OUT // 8)),
    "m.scales": ("F16", (IN // GROUP, OUT)),
}
BLOCKS = {"m.weight": ("F8_E4M3", (OUT, IN)), "m.weight_scale_inv": ("F32", (2, 4))}
CHANNELS = {
    "m.weight": ("F8_E4M3", (OUT, IN)),
    "m.weight_scale": ("BF16", (OUT, 1)),
    "m.input_scale": ("BF16", (1,)),
}
PACKED = {
    "m.weight_packed": ("I32", (OUT, IN // 8)),
    "m.weight_scale": ("BF16", (OUT, IN // GROUP)),
    "m.weight_zero_point": ("I32", (OUT // 8, IN // GROUP)),
    "m.weight_shape": ("I64", (2,)),
}
WEIGHTS = {"num_bits": 4, "group_size": GROUP, "strategy": "group"}
COMPRESSED = quantised("compressed-tensors", config_groups={"group_0": {"weights": WEIGHTS}})


def locals_of(plan: ShardingPlan) -> dict[str, tuple[int, ...]]:
    """What rank 1 holds of each of a module's tensors."""
    return {name.removeprefix("m."): cut.piece(1).shape for name, cut in plan.cuts.items()}


def cut(
    config: dict[str, Any], shapes: dict[str, Any], strategy: str, tensor: int = 2
) -> dict[str, tuple[int, ...]]:
    plan = plan_of(config, shapes, Parallelism(tensor), [Rule("m.weight", strategy)])
    assert plan.unmatched == ()
    return locals_of(plan)


def test_gptq_goes_with_the_outputs_of_its_weight() -> None:
    assert cut(gptq(), GPTQ, "column") == {
        "qweight": (16, 32),
        "qzeros": (4, 4),
        "scales": (4, 32),
        "g_idx": (128,),
        "bias": (32,),
    }


def test_gptq_goes_with_the_inputs_of_its_weight() -> None:
    assert cut(gptq(), GPTQ, "row") == {
        "qweight": (8, 64),
        "qzeros": (2, 8),
        "scales": (2, 64),
        "g_idx": (64,),
        "bias": (64,),
    }


def test_inputs_in_the_order_of_their_activation_are_not_cut() -> None:
    with pytest.raises(InvalidSharding, match="order of their activation"):
        cut(gptq(desc_act=True), GPTQ, "row")
    assert cut(gptq(desc_act=True), GPTQ, "column")["scales"] == (4, 32)


def test_one_group_for_all_inputs_is_on_every_rank() -> None:
    shapes = {
        "m.qweight": ("I32", (IN // 8, OUT)),
        "m.qzeros": ("I32", (1, OUT // 8)),
        "m.scales": ("F16", (1, OUT)),
    }
    config = quantised("gptq", bits=4, group_size=-1)
    assert cut(config, shapes, "row") == {"qweight": (8, 64), "qzeros": (1, 8), "scales": (1, 64)}


def test_awq_packs_outputs() -> None:
    config = quantised("awq", bits=4, group_size=GROUP)
    assert cut(config, AWQ, "column") == {"qweight": (128, 4), "qzeros": (4, 4), "scales": (4, 32)}
    assert cut(config, AWQ, "row") == {"qweight": (64, 8), "qzeros": (2, 8), "scales": (2, 64)}


def test_a_cut_through_packed_outputs_or_a_group_is_refused() -> None:
    with pytest.raises(
        InvalidSharding, match=r"one index for 8 of the weight's 64, and the cut at 4"
    ):
        cut(quantised("awq", bits=4, group_size=GROUP), AWQ, "column", 16)
    with pytest.raises(InvalidSharding, match=r"one index for 32 of the weight's 128"):
        cut(gptq(), {name: GPTQ[name] for name in ("m.qweight", "m.scales")}, "row", 8)


def test_scales_of_blocks_go_with_their_blocks() -> None:
    config = quantised("fp8", weight_block_size=[32, 32])
    assert cut(config, BLOCKS, "column") == {"weight": (32, 128), "weight_scale_inv": (1, 4)}
    assert cut(config, BLOCKS, "row") == {"weight": (64, 64), "weight_scale_inv": (2, 2)}
    with pytest.raises(InvalidSharding, match="the cut at 16 is inside of one"):
        cut(config, BLOCKS, "column", 4)


def test_a_last_block_may_be_smaller() -> None:
    shapes = {"m.weight": ("F8_E4M3", (80, 32)), "m.weight_scale_inv": ("F32", (3, 1))}
    config = {**quantised("fp8", weight_block_size=[32, 32])}
    rules = [Rule("m.weight", "packed", parts=(2, 2, 1), uneven="chunk")]
    plan = plan_of(config, shapes, Parallelism(1), rules)
    assert locals_of_rank(plan, 0) == {"weight": (80, 32), "weight_scale_inv": (3, 1)}


def locals_of_rank(plan: ShardingPlan, rank: int) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix("m."): c.piece(rank).shape for name, c in plan.cuts.items()}


def test_scales_of_channels_go_with_outputs_and_stay_whole_for_inputs() -> None:
    config = quantised("compressed-tensors")
    whole = {"input_scale": (1,)}
    assert cut(config, CHANNELS, "column") == {
        "weight": (32, 128),
        "weight_scale": (32, 1),
        **whole,
    }
    assert cut(config, CHANNELS, "row") == {"weight": (64, 64), "weight_scale": (64, 1), **whole}


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_scale_for_all_is_on_every_rank(shape: tuple[int, ...]) -> None:
    shapes = {"m.weight": ("F8_E4M3", (OUT, IN)), "m.weight_scale": ("F32", shape)}
    assert cut(quantised("fp8"), shapes, "column")["weight_scale"] == shape


def test_packed_weights_of_compressed_tensors_are_cut_with_scales_and_zeros() -> None:
    assert cut(COMPRESSED, PACKED, "column") == {
        "weight_packed": (32, 16),
        "weight_scale": (32, 4),
        "weight_zero_point": (4, 4),
        "weight_shape": (2,),
    }
    assert cut(COMPRESSED, PACKED, "row")["weight_scale"] == (64, 2)


def test_scales_that_nothing_explains_are_refused() -> None:
    shapes = {"m.weight": ("F8_E4M3", (OUT, IN)), "m.weight_scale": ("F32", (3,))}
    with pytest.raises(InvalidSharding, match="has 3 indices for 64 of its weight"):
        cut(quantised("fp8"), shapes, "column")


@pytest.mark.parametrize(
    ("config", "shapes", "message"),
    [
        (gptq(), {**GPTQ, "m.scales": ("F16", (4, 64, 1))}, "has 3 dimensions, not 2"),
        (quantised("gptq", bits=3), GPTQ, "is packed with 3 bits, which do not divide 32"),
        (quantised("compressed-tensors"), PACKED, "is packed with 0 bits, which is unknown"),
        (gptq(), {"m.scales": GPTQ["m.scales"]}, "needs a two-dimensional qweight beside it"),
    ],
)
def test_what_does_not_fit_its_configuration_is_refused(
    config: dict[str, Any], shapes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSharding, match=message):
        cut(config, shapes, "column")


def test_several_scales_where_one_is_known_are_refused() -> None:
    shapes = {**CHANNELS, "m.input_scale": ("F32", (2,))}
    with pytest.raises(InvalidSharding, match="more than one element"):
        cut(quantised("fp8"), shapes, "column")


def test_a_padded_vocabulary_has_no_scales() -> None:
    with pytest.raises(InvalidSharding, match="would need a pad"):
        cut(quantised("compressed-tensors"), CHANNELS, "vocab", 3)


def test_an_unknown_method_is_refused_where_it_packs_a_weight_that_built_in_rules_name() -> None:
    config = {**quantised("bitsandbytes"), "model_type": "llama"}
    shapes = {"model.layers.0.mlp.up_proj.weight": ("U8", (OUT, IN))}
    with pytest.raises(InvalidSharding, match="'bitsandbytes' is not known"):
        plan_of(config, shapes, Parallelism(2))
    rules = [Rule("*.up_proj.weight", "column")]
    assert plan_of(config, shapes, Parallelism(2), rules).unmatched == ()


def test_weights_that_an_unknown_method_leaves_alone_are_cut() -> None:
    config = {**quantised("mxfp4"), "model_type": "llama"}
    shapes = {"model.layers.0.mlp.up_proj.weight": ("BF16", (OUT, IN))}
    assert plan_of(config, shapes, Parallelism(2)).unmatched == ()


def test_what_lies_beside_a_cut_weight_and_is_not_known_is_refused() -> None:
    shapes = {"m.weight": ("BF16", (OUT, IN)), "m.weight.absmax": ("F32", (4,))}
    with pytest.raises(InvalidSharding, match=r"seems to belong to 'm\.weight'"):
        cut({"model_type": "made-up"}, shapes, "column")


def test_a_rule_of_its_own_settles_what_is_not_known() -> None:
    shapes = {"m.weight": ("F8_E4M3", (OUT, IN)), "m.weight_scale_of_mine": ("F32", (OUT,))}
    rules = [Rule("m.weight", "column"), Rule("*_of_mine", "column")]
    plan = plan_of(quantised("fp8"), shapes, Parallelism(2), rules)
    assert locals_of(plan)["weight_scale_of_mine"] == (32,)


def test_experts_take_their_scales_along() -> None:
    shapes = {
        f"experts.{n}.{name.removeprefix('m.')}": described
        for n in range(2)
        for name, described in BLOCKS.items()
    }
    config = quantised("fp8", weight_block_size=[32, 32])
    rules = [Rule("experts.*.weight", "experts", inner="column")]
    plan = plan_of(config, shapes, Parallelism(2, 1, 2), rules)
    scale = plan.cuts["experts.1.weight_scale_inv"]
    assert (scale.expert, scale.piece(0, 1).shape) == (1, (1, 4))


def test_scales_are_not_cast() -> None:
    rules = [Rule("m.weight", "column")]
    with pytest.raises(InvalidSharding, match="would cast the scales"):
        plan_of(quantised("fp8"), CHANNELS, Parallelism(2), rules, dtype="bfloat16")
