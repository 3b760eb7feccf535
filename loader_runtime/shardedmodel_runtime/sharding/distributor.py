"""``WeightDistributor``: from headers and rules to the plan of who holds which slice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate

from shardedmodel_runtime.checkpoint import CheckpointMetadata, SourceTensor
from shardedmodel_runtime.errors import InvalidSharding, UnsupportedArchitecture, excerpt
from shardedmodel_runtime.formats.hf import ModelConfig
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import REPLICATE, TensorCut
from shardedmodel_runtime.sharding.families import FAMILIES
from shardedmodel_runtime.sharding.heads import heads, packed
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.sharding.strategies import (
    Strategy,
    Uncut,
    column,
    replicate,
    row,
    vocab,
)

STRATEGIES: Mapping[str, Strategy] = {
    "column": column,
    "row": row,
    "vocab": vocab,
    "heads": heads,
    "packed": packed,
    REPLICATE: replicate,
}
"""Every strategy by the name it has in rules."""


class WeightDistributor:
    """Decides how every tensor of a checkpoint is distributed over the ranks.

    The user's rules come before the built-in ones of the model's family; among each, the first
    match decides. A tensor that nothing matches is replicated and marked so.

    Raises:
        InvalidSharding: a rule names an unknown strategy, or the parallelism is of a kind that
            this release does not cut for.
    """

    def __init__(self, parallelism: Parallelism, rules: Sequence[Rule] = ()) -> None:
        for kind in ("pipeline", "expert"):
            degree = getattr(parallelism, kind)
            if degree > 1:
                raise InvalidSharding(
                    f"parallelism.{kind}: {degree} is not supported in this release; use 1"
                )
        for rule in rules:
            if rule.strategy not in STRATEGIES:
                raise InvalidSharding(
                    f"sharding.rules: {excerpt(rule.match)!r} names the unknown strategy "
                    f"{excerpt(rule.strategy)!r}; use one of {sorted(STRATEGIES)}"
                )
        self.parallelism = parallelism
        self.rules = tuple(rules)

    def plan(self, metadata: CheckpointMetadata) -> ShardingPlan:
        """Cut every tensor of ``metadata``; reads nothing but what it holds.

        Raises:
            UnsupportedArchitecture: no family is known for the model and no rule was given.
            InvalidSharding: a rule matches nothing, or does not fit a tensor's shape.
        """
        model_type = metadata.config.model_type
        family = FAMILIES.get(model_type, ())
        if not family and not self.rules:
            raise _unsupported(metadata)
        self._refuse_idle_rules(metadata)
        chosen = _choose(metadata.tensors, (*self.rules, *family))

        def is_late(name: str) -> bool:
            # Heads come first: they say which numbers of ranks work, where others only say no.
            return name not in chosen or chosen[name].strategy not in ("heads", "packed")

        cuts = {
            name: self._cut(metadata.tensors[name], chosen.get(name), metadata.config)
            for name in sorted(metadata.tensors, key=is_late)
        }
        return ShardingPlan(
            self.parallelism,
            model_type,
            {name: cuts[name] for name in metadata.tensors},
            unmatched=tuple(name for name in metadata.tensors if name not in chosen),
        )

    def _cut(self, tensor: SourceTensor, rule: Rule | None, config: ModelConfig) -> TensorCut:
        if rule is None:
            return TensorCut(tensor.dtype, tensor.shape)
        uncut = Uncut(
            tensor.name, tensor.dtype, tensor.shape, self.parallelism.tensor, config, rule
        )
        axis = STRATEGIES[rule.strategy](uncut)
        return TensorCut(
            tensor.dtype,
            tensor.shape,
            rule.strategy,
            (axis,) if axis else (),
            added_once=rule.strategy == "row" and axis is None,
        )

    def _refuse_idle_rules(self, metadata: CheckpointMetadata) -> None:
        for rule in self.rules:
            if not _choose(metadata.tensors, (rule,)):
                example = next(iter(metadata.tensors), "")
                raise InvalidSharding(
                    f"sharding.rules: {excerpt(rule.match)!r} matches no tensor; names look like "
                    f"{excerpt(example)!r}"
                )


def _choose(names: Iterable[str], rules: Sequence[Rule]) -> dict[str, Rule]:
    """The first rule that matches, by name; names without one are left out."""
    # fnmatch itself caches 256 patterns, fewer than the rules of a user and a family can be.
    compiled = [(re.compile(translate(rule.match)), rule) for rule in rules]
    matches = (
        (name, next((rule for glob, rule in compiled if glob.match(name)), None)) for name in names
    )
    return {name: rule for name, rule in matches if rule is not None}


def _unsupported(metadata: CheckpointMetadata) -> UnsupportedArchitecture:
    weight = next((t.name for t in metadata.tensors.values() if len(t.shape) == 2), "model.weight")
    return UnsupportedArchitecture(
        f"config.json: model_type {excerpt(metadata.config.model_type)!r} has no built-in plan "
        f"(there are {', '.join(sorted(FAMILIES))}); write rules, for example "
        f"sharding.rules: [{{match: {excerpt(weight)!r}, strategy: column}}]"
    )
