from __future__ import annotations

from typing import Any

import pytest

from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut
from shardedmodel_runtime.sharding.rules import Rule
from tests.builders.plan import plan_of

CONFIG = {"model_type": "made-up"}
HALVES = (((0, 2),), ((2, 4),))


def one_each(*names: str, count: int = 4, shape: tuple[int, ...] = (6, 8)) -> dict[str, Any]:
    """A tensor for each expert of a layer."""
    return {f"layers.0.experts.{n}.{name}": shape for n in range(count) for name in names}


def fused(degrees: Parallelism, name: str = "experts.up", **rule: Any) -> TensorCut:
    shape = (4, 4) if name.endswith("bias") else (4, 4, 8)
    plan = plan_of(CONFIG, {name: shape}, degrees, [Rule(name, "experts", **rule)])
    return plan.cuts[name]


def test_fused_experts_go_to_expert_ranks() -> None:
    found = fused(Parallelism(1, 1, 2))
    assert found.axes == (AxisCut("expert", 0, HALVES, (0, 0)),)


def test_fused_experts_are_cut_along_two_dimensions_at_once() -> None:
    found = fused(Parallelism(2, 1, 2), inner="row")
    expert, tensor = found.axes
    assert (expert.over, expert.dim, tensor.over, tensor.dim) == ("expert", 0, "tensor", 2)
    assert found.piece(1, 1).shape == (2, 4, 4)


@pytest.mark.parametrize(
    ("rule", "local"),
    [
        ({"inner": "column"}, (4, 2, 8)),
        ({"inner": "row"}, (4, 4, 4)),
        ({"inner": "packed"}, (4, 2, 8)),
        ({"inner": "column", "transposed": True}, (4, 4, 4)),
        ({"inner": "row", "transposed": True}, (4, 2, 8)),
        ({"inner": "replicate"}, (4, 4, 8)),
        ({}, (2, 4, 8)),
    ],
)
def test_without_expert_ranks_tensor_ranks_share_what_is_inside_or_else_experts(
    rule: dict[str, Any], local: tuple[int, ...]
) -> None:
    assert fused(Parallelism(2), **rule).piece(0).shape == local


def test_a_fused_bias_follows_its_weight() -> None:
    column = fused(Parallelism(2), "experts.up_bias", inner="column")
    row = fused(Parallelism(2), "experts.down_bias", inner="row")
    assert (column.piece(1).shape, column.added_once) == ((4, 2), False)
    assert (row.piece(1).shape, row.added_once) == ((4, 4), True)


def test_a_fused_bias_follows_its_weight_where_no_rule_names_it() -> None:
    shapes = {"experts.up": (4, 4, 8), "experts.up_bias": (4, 4)}
    rules = [Rule("experts.up", "experts", inner="column")]
    plan = plan_of(CONFIG, shapes, Parallelism(2), rules)
    assert plan.cuts["experts.up_bias"].piece(1).shape == (4, 2)


def test_a_tensor_of_one_expert_lies_on_its_expert_rank() -> None:
    shapes = one_each("up.weight")
    rules = [Rule("*.up.weight", "experts", inner="column")]
    plan = plan_of(CONFIG, shapes, Parallelism(2, 1, 2), rules)
    owners = [plan.cuts[f"layers.0.experts.{n}.up.weight"].expert for n in range(4)]
    assert owners == [0, 0, 1, 1]
    assert plan.cuts["layers.0.experts.3.up.weight"].piece(1, 1).shape == (3, 8)
    assert plan.rank_bytes(0) == plan.rank_bytes(3) == 2 * 3 * 8 * 2


def test_without_expert_ranks_and_inner_strategy_each_lies_on_its_tensor_rank() -> None:
    rules = [Rule("*.up.weight", "experts")]
    plan = plan_of(CONFIG, one_each("up.weight"), Parallelism(2), rules)
    shapes = [cut.piece(1).shape for cut in plan.cuts.values()]
    assert shapes == [(0, 8), (0, 8), (6, 8), (6, 8)]


def test_experts_of_each_layer_are_counted_by_themselves() -> None:
    shapes = one_each("up.weight") | {f"layers.1.experts.{n}.up.weight": (6, 8) for n in range(2)}
    rules = [Rule("*.up.weight", "experts", inner="column")]
    plan = plan_of(CONFIG, shapes, Parallelism(1, 1, 2), rules)
    assert plan.cuts["layers.1.experts.1.up.weight"].expert == 1


@pytest.mark.parametrize("degrees", [Parallelism(1, 1, 3), Parallelism(3)])
def test_experts_that_ranks_cannot_share_are_refused_with_what_works(degrees: Parallelism) -> None:
    message = r"3 ranks cannot share the 4 experts of .*; use one of \[1, 2, 4\]"
    with pytest.raises(InvalidSharding, match=message):
        fused(degrees)
    with pytest.raises(InvalidSharding, match=message):
        plan_of(CONFIG, one_each("up"), degrees, [Rule("*.up", "experts")])


def test_expert_ranks_without_experts_are_refused() -> None:
    with pytest.raises(InvalidSharding, match=r"parallelism\.expert: 2: no rule cuts experts"):
        plan_of(CONFIG, {"w": (4, 4)}, Parallelism(1, 1, 2), [Rule("w", "column")])


def test_what_is_no_expert_is_the_same_on_all_expert_ranks() -> None:
    shapes = one_each("up.weight") | {"norm.weight": (8,), "q.weight": (8, 8)}
    rules = [
        Rule("*.up.weight", "experts", inner="column"),
        Rule("norm.weight", "replicate"),
        Rule("q.weight", "column"),
    ]
    plan = plan_of(CONFIG, shapes, Parallelism(2, 1, 2), rules)
    assert plan.cuts["q.weight"].expert is None
    assert plan.cuts["q.weight"].piece(1, 1).shape == (4, 8)
