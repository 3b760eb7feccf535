from __future__ import annotations

import pytest

from shardedmodel_runtime.sharding.names import PerAlike
from shardedmodel_runtime.sharding.rules import Rule, RuleBook, idle_rules

COLUMN, ROW = Rule("*.up.weight", "column"), Rule("*.down.weight", "row")


def test_the_first_rule_that_matches_decides() -> None:
    book = RuleBook([COLUMN, Rule("*.weight", "row"), Rule("*", "replicate")])
    found = [book.find(name) for name in ("layers.0.up.weight", "norm.weight", "norm.bias")]
    assert [rule and rule.strategy for rule in found] == ["column", "row", "replicate"]


def test_a_name_that_no_rule_matches_has_none() -> None:
    assert RuleBook([COLUMN]).find("norm.weight") is None
    assert RuleBook([]).find("norm.weight") is None


@pytest.mark.parametrize("pattern", ["layers.1.*", "layers.?.*", "layers.[1-9].*", "layers.[1]*"])
def test_a_rule_may_tell_layers_apart(pattern: str) -> None:
    own = Rule(pattern, "replicate")
    for name in ("layers.0.up.weight", "layers.1.up.weight", "layers.0.up.weight"):
        first = RuleBook([own, COLUMN]).find(name)
        assert first is (own if "1" in name or "?" in pattern else COLUMN)
        assert RuleBook([COLUMN, own]).find(name) is COLUMN


def test_names_are_told_apart_by_everything_but_numbers() -> None:
    book = RuleBook([Rule("*.experts.*.w*", "experts"), Rule("*w", "column")])
    assert book.find("layers.10.experts.7.w1") is book.find("layers.2.experts.123.w3")
    assert book.find("layers.10.expert.7.w1") is None


def test_what_looks_at_no_digit_is_asked_once_for_names_that_are_alike() -> None:
    asked: list[str] = []

    def count(name: str) -> int:
        asked.append(name)
        return name.count(".")

    dots = PerAlike(count)
    assert [dots(name) for name in ("a.1.b", "a.2.b", "a.10.b", "a.b")] == [2, 2, 2, 1]
    assert asked == ["a.1.b", "a.10.b", "a.b"]


def test_idle_rules_match_nothing_whatever_comes_before_them() -> None:
    names = ["layers.0.up.weight", "layers.1.up.weight"]
    numbered, typo = Rule("layers.2.*", "row"), Rule("*.upp.*", "row")
    rules = [COLUMN, Rule("layers.1.*", "row"), numbered, typo]
    assert idle_rules(rules, names) == [numbered, typo]
