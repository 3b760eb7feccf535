"""Rules: which tensors, by name, are cut by which strategy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Literal

from shardedmodel_runtime.sharding.names import PerAlike, alike

VOCAB_MULTIPLE = 64
"""Rows that a padded vocabulary is a multiple of (vLLM, ``DEFAULT_VOCAB_PADDING_SIZE``)."""

_NAMES_NUMBERS = re.compile(r"[\d?\[]")
"""What a pattern needs to tell one layer from another: digits, or a wildcard of one character."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose name matches a glob are cut by a strategy.

    Args:
        match: shell-style pattern of full parameter names, such as ``*.q_proj.weight``.
        strategy: a name in ``STRATEGIES``.
        transposed: the weight is (in, out), as in GPT-2's ``Conv1D``: column cuts the last
            dimension, row the first.
        parts: of ``packed``, the tensors that lie one after the other along the cut dimension:
            ``query``, ``key``, ``value`` and ``group`` (cut by whole heads), or whole numbers
            (relative sizes, each part cut evenly); empty: two equal halves, as ``gate_up`` has
            them. Of ``heads``, the one kind of head that it is; empty: its size tells.
        inner: of ``experts``, the strategy inside one expert, over the tensor ranks.
        uneven: what becomes of a dimension that the ranks do not divide: ``refuse`` it, or cut it
            by the rule of ``torch.chunk`` and DTensor (equal chunks rounded up, the last ones
            smaller or empty).
        multiple: of ``vocab``, the padded size is a multiple of it.
    """

    match: str
    strategy: str
    transposed: bool = False
    parts: tuple[str | int, ...] = ()
    inner: str = ""
    uneven: Literal["refuse", "chunk"] = "refuse"
    multiple: int = VOCAB_MULTIPLE


class RuleBook:
    """Finds the first of many rules that matches a name.

    Rules that name no numbers decide alike for all layers and experts, so they are tried once for
    names that differ in numbers alone: a checkpoint of 90,000 tensors has some dozens of such.

    Args:
        rules: in the order in which they are tried.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        # fnmatch itself caches 256 patterns, fewer than the rules of a user and a family can be.
        compiled = [(re.compile(translate(rule.match)).match, rule) for rule in rules]
        self._rules = rules
        self._numbered = [
            (index, match)
            for index, (match, rule) in enumerate(compiled)
            if _NAMES_NUMBERS.search(rule.match)
        ]
        numbered = {index for index, _ in self._numbered}
        self._general = [
            (index, match) for index, (match, _) in enumerate(compiled) if index not in numbered
        ]
        self._first_general = PerAlike(self._find_general)

    def find(self, name: str) -> Rule | None:
        """The first rule that matches ``name``."""
        first = self._first_general(name)
        for index, match in self._numbered:
            if index > first:
                break
            if match(name):
                return self._rules[index]
        return self._rules[first] if first < len(self._rules) else None

    def _find_general(self, name: str) -> int:
        matching = (index for index, match in self._general if match(name))
        return next(matching, len(self._rules))


def idle_rules(rules: Sequence[Rule], names: Sequence[str]) -> list[Rule]:
    """The rules that match none of the names, whatever other rules there are."""
    examples = list({alike(name): name for name in names}.values())
    idle = []
    for rule in rules:
        book = RuleBook([rule])
        tried = names if _NAMES_NUMBERS.search(rule.match) else examples
        if not any(book.find(name) for name in tried):
            idle.append(rule)
    return idle
