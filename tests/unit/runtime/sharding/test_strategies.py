from __future__ import annotations

from typing import Any

import pytest

from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.sharding.rules import Rule
from tests.builders.plan import plan_of

CONFIG = {"model_type": "made-up", "num_attention_heads": 8, "num_key_value_heads": 2}
"""Eight query heads of any size, two key-value heads."""


def cut(
    shape: tuple[int, ...], tensor: int, name: str = "w", dtype: str = "BF16", **rule: Any
) -> TensorCut:
    config = {**CONFIG, "hidden_size": 32}
    rules = [Rule(name, **rule)]
    return plan_of(config, {name: (dtype, shape)}, Parallelism(tensor), rules).cuts[name]


def held(found: TensorCut) -> tuple[int, list[list[tuple[int, int]]]]:
    """The dimension that is cut, and the ranges of each rank."""
    [axis] = found.axes
    return axis.dim, [list(ranges) for ranges in axis.ranges]


def test_transposed_columns_are_in_the_last_dimension_and_rows_in_the_first() -> None:
    assert held(cut((4, 6), 2, strategy="column", transposed=True)) == (1, [[(0, 3)], [(3, 6)]])
    assert held(cut((4, 6), 2, strategy="row", transposed=True)) == (0, [[(0, 2)], [(2, 4)]])
    bias = cut((6,), 2, name="c_attn.bias", strategy="column", transposed=True)
    assert held(bias) == (0, [[(0, 3)], [(3, 6)]])


def test_a_bias_of_rows_is_whole_and_added_once() -> None:
    found = cut((6,), 2, name="o.bias", strategy="row")
    assert (found.axes, found.added_once) == ((), True)
    assert not cut((6, 6), 2, strategy="row").added_once


def test_uneven_dimensions_are_cut_by_the_chunk_rule_where_the_rule_says_so() -> None:
    found = cut((5, 2), 4, strategy="column", uneven="chunk")
    assert held(found) == (0, [[(0, 2)], [(2, 4)], [(4, 5)], []])
    assert found.piece(3).shape == (0, 2)
    with pytest.raises(InvalidSharding, match="uneven: chunk"):
        cut((5, 2), 4, strategy="column")


def test_a_vocabulary_is_padded_to_the_multiple_of_its_rule() -> None:
    assert cut((10, 4), 2, strategy="vocab", multiple=1).piece(0).shape == (5, 4)
    assert cut((10, 4), 2, strategy="vocab", multiple=16).piece(0).shape == (8, 4)


def test_packed_halves_are_cut_each_by_itself() -> None:
    found = cut((8, 3), 2, strategy="packed")
    assert held(found) == (0, [[(0, 2), (4, 6)], [(2, 4), (6, 8)]])


def test_packed_parts_may_be_of_different_sizes() -> None:
    found = cut((3, 12), 2, strategy="packed", parts=(1, 2), transposed=True)
    assert held(found) == (1, [[(0, 2), (4, 8)], [(2, 4), (8, 12)]])
    with pytest.raises(InvalidSharding, match=r"its parts \[1, 2\] of 1 \+ 2"):
        cut((10, 2), 2, strategy="packed", parts=(1, 2))
    with pytest.raises(InvalidSharding, match="dimension 0 of size 9 into"):
        cut((9, 2), 2, strategy="packed", parts=(1, 2))


def test_packed_query_key_and_value_are_cut_by_heads() -> None:
    found = cut((12 * 4, 3), 4, strategy="packed", parts=("query", "key", "value"))
    assert held(found)[1] == [
        [(0, 8), (32, 36), (40, 44)],
        [(8, 16), (32, 36), (40, 44)],
        [(16, 24), (36, 40), (44, 48)],
        [(24, 32), (36, 40), (44, 48)],
    ]


def test_heads_that_a_rule_names_may_be_of_any_size() -> None:
    found = cut((2 * 5, 3), 4, strategy="heads", parts=("value",))
    assert held(found) == (0, [[(0, 5)], [(0, 5)], [(5, 10)], [(5, 10)]])
    with pytest.raises(InvalidSharding, match=r"its parts \['key'\] of 2"):
        cut((5, 3), 2, strategy="heads", parts=("key",))


def test_heads_of_an_unknown_size_have_to_be_named() -> None:
    with pytest.raises(InvalidSharding, match=r"say which with parts: \[query\]"):
        cut((40, 3), 2, strategy="heads")


def test_heads_have_to_be_counted_in_the_configuration() -> None:
    rules = [Rule("w", "heads", parts=("query",))]
    with pytest.raises(InvalidSharding, match="needs num_attention_heads in config"):
        plan_of({"model_type": "made-up"}, {"w": (8, 8)}, Parallelism(2), rules)


def test_groups_go_to_ranks_whole() -> None:
    found = cut((12, 3), 2, strategy="heads", parts=("group",))
    assert held(found) == (0, [[(0, 6)], [(6, 12)]])


def test_a_group_that_ranks_share_gives_each_its_queries_and_all_its_key_and_value() -> None:
    found = cut((12, 3), 4, strategy="heads", parts=("group",))
    assert held(found)[1] == [
        [(0, 2), (4, 6)],
        [(2, 6)],
        [(6, 8), (10, 12)],
        [(8, 12)],
    ]


@pytest.mark.parametrize("part", ["query", "key", "value", "group"])
def test_ranks_that_cannot_share_the_heads_are_told_what_works(part: str) -> None:
    with pytest.raises(InvalidSharding, match=r"parallelism.tensor: 3 .* use one of \[1, 2, 4, 8"):
        cut((24, 3), 3, strategy="heads", parts=(part,))


@pytest.mark.parametrize(
    ("dtype", "shape", "rule"),
    [
        ("F4", (2, 1), {"strategy": "column"}),
        ("F4", (2, 2), {"strategy": "row"}),
        ("F4", (4, 1), {"strategy": "packed"}),
        ("F4", (2, 1), {"strategy": "vocab", "multiple": 1}),
        ("F4", (2, 1), {"strategy": "experts"}),
        ("F6_E2M3", (4, 1), {"strategy": "column"}),
    ],
)
def test_a_cut_inside_a_byte_is_refused(
    dtype: str, shape: tuple[int, ...], rule: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSharding, match=f"inside a byte, for {dtype} has .*'replicate'"):
        cut(shape, 2, dtype=dtype, **rule)


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (Rule("w", "diagonal"), "unknown strategy 'diagonal'; use one of"),
        (Rule("w", "column", inner="row"), "inner is for the strategy experts"),
        (Rule("w", "experts", inner="vocab"), "has inner 'vocab'"),
        (Rule("w", "column", parts=(1, 2)), "parts, which are for packed and heads"),
        (Rule("w", "packed", parts=("query", 1)), "use either"),
        (Rule("w", "packed", parts=("querry",)), "use query, key, value, group or whole"),
        (Rule("w", "packed", parts=(0, 1)), "whole numbers above 0"),
        (Rule("w", "heads", parts=("key", "value")), "heads takes one of"),
        (Rule("w", "heads", parts=(1,)), "heads takes one of"),
        (Rule("w", "column", uneven="maybe"), "uneven 'maybe'; use refuse or chunk"),  # type: ignore[arg-type]
        (Rule("w", "heads", uneven="chunk"), "uneven, which is for column, row and packed"),
        (Rule("w", "vocab", transposed=True), "transposed, which is for column, row, packed and"),
        (Rule("w", "vocab", multiple=0), "multiple 0; it is for vocab, and 1 or more"),
        (Rule("w", "column", multiple=8), "multiple 8; it is for vocab"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: Rule, complaint: str) -> None:
    with pytest.raises(InvalidSharding, match=complaint):
        plan_of(CONFIG, {"w": (8, 8)}, Parallelism(2), [rule])
