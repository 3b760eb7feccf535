"""``WeightDistributor``: from headers and rules to the plan of who holds which slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.errors import InvalidSharding, UnsupportedArchitecture, excerpt
from shardedmodel_runtime.formats.dtypes import CASTS
from shardedmodel_runtime.memory import collection_paused
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cutter import INNER_STRATEGIES, STRATEGIES, CheckpointCutter
from shardedmodel_runtime.sharding.families import FAMILIES
from shardedmodel_runtime.sharding.heads import HEAD_PARTS
from shardedmodel_runtime.sharding.microscaled import fused_weight_of
from shardedmodel_runtime.sharding.plan import KEEP_DTYPE, ShardingPlan
from shardedmodel_runtime.sharding.quantised import (
    is_known,
    refuse_unknown_packing,
    weight_of,
)
from shardedmodel_runtime.sharding.rules import VOCAB_MULTIPLE, Rule, RuleBook, idle_rules

NAMES_SHOWN = 3
"""Names of tensors in a message."""


class WeightDistributor:
    """Decides how every tensor of a checkpoint is distributed over the ranks.

    The user's rules come before the built-in ones of the model's family; among each, the first
    match decides. A tensor that nothing matches is replicated and listed.

    Args:
        parallelism: the degrees.
        rules: the user's own.
        dtype: ``keep``, or what floating-point tensors are cast to: ``bfloat16``, ``float16`` or
            ``float32``.
        allow_unmatched: also where what no rule matches is more than half of the checkpoint.

    Raises:
        InvalidSharding: a rule or the dtype is not one of those that there are.
    """

    def __init__(
        self,
        parallelism: Parallelism,
        rules: Sequence[Rule] = (),
        *,
        dtype: str = KEEP_DTYPE,
        allow_unmatched: bool = False,
    ) -> None:
        if dtype != KEEP_DTYPE and dtype not in CASTS:
            raise InvalidSharding(
                f"sharding.dtype: {excerpt(dtype)!r} is not one of {[KEEP_DTYPE, *CASTS]}"
            )
        for rule in rules:
            check_rule(rule)
        self.parallelism = parallelism
        self.rules = tuple(rules)
        self.dtype = dtype
        self.allow_unmatched = allow_unmatched

    @collection_paused()
    def plan(self, metadata: CheckpointMetadata) -> ShardingPlan:
        """Cut every tensor of ``metadata``; reads nothing but what it holds.

        Raises:
            UnsupportedArchitecture: no family is known for the model and no rule was given.
            InvalidSharding: a rule matches nothing, or does not fit a tensor's shape; the ranks
                cannot share the model's heads, layers or experts; or nothing says how to cut more
                than half of the checkpoint.
        """
        model_type = metadata.config.model_type
        family = FAMILIES.get(model_type, ())
        if not family and not self.rules:
            raise _unsupported(metadata)
        self._refuse_idle_rules(metadata)
        self._refuse_casting_scales(metadata)
        chosen = self._choose(metadata, family)
        self._refuse_unknown_packing(metadata, chosen)
        cutter = CheckpointCutter(metadata, self.parallelism, CASTS.get(self.dtype))

        def is_late(name: str) -> bool:
            # Heads come first: they say which numbers of ranks work, where others only say no.
            return name not in chosen or chosen[name].strategy not in ("heads", "packed")

        cuts = {name: cutter.cut(name, chosen[name]) for name in sorted(chosen, key=is_late)}
        unmatched = tuple(name for name in metadata.tensors if name not in chosen)
        cuts |= {name: cutter.leave_whole(name, cuts) for name in unmatched}
        plan = ShardingPlan(
            self.parallelism,
            model_type,
            {name: cuts[name] for name in metadata.tensors},
            unmatched,
            self.dtype,
            self.rules,
        )
        self._refuse_too_much_unmatched(metadata, plan)
        self._refuse_idle_experts(plan)
        return plan

    def _choose(self, metadata: CheckpointMetadata, family: Sequence[Rule]) -> dict[str, Rule]:
        """The first rule that matches, by name; what belongs to a weight follows its rule."""
        book = RuleBook((*self.rules, *family))
        chosen: dict[str, Rule] = {}
        for name in metadata.tensors:
            rule = book.find(name)
            if rule is None:
                leader = leader_of(name)
                rule = book.find(leader) if leader else None
            if rule is not None:
                chosen[name] = rule
        return chosen

    def _refuse_idle_rules(self, metadata: CheckpointMetadata) -> None:
        if not self.rules:
            return
        # A rule for a weight also speaks for what a quantised checkpoint has in its place.
        names = [weight_of(name) or name for name in metadata.tensors]
        for rule in idle_rules(self.rules, [*metadata.tensors, *names]):
            example = next(iter(metadata.tensors), "")
            raise InvalidSharding(
                f"sharding.rules: {excerpt(rule.match)!r} matches no tensor; names look like "
                f"{excerpt(example)!r}"
            )

    def _refuse_casting_scales(self, metadata: CheckpointMetadata) -> None:
        quantisation = metadata.config.quantisation
        if self.dtype != KEEP_DTYPE and quantisation is not None:
            raise InvalidSharding(
                f"sharding.dtype: {self.dtype} would cast the scales of a checkpoint that is "
                f"quantised with {excerpt(quantisation.method)!r}; use {KEEP_DTYPE}"
            )

    def _refuse_unknown_packing(
        self, metadata: CheckpointMetadata, chosen: Mapping[str, Rule]
    ) -> None:
        """Built-in rules cut weights by their shape; the user's own know what they name."""
        quantisation = metadata.config.quantisation
        if quantisation is None or is_known(quantisation):
            return
        for name, rule in chosen.items():
            if name.endswith(".weight") and rule not in self.rules:
                refuse_unknown_packing(metadata.tensors[name], quantisation)

    def _refuse_too_much_unmatched(self, metadata: CheckpointMetadata, plan: ShardingPlan) -> None:
        unmatched = sum(metadata.tensors[name].nbytes for name in plan.unmatched)
        total = metadata.total_bytes
        if self.allow_unmatched or 2 * unmatched <= total:
            return
        names = ", ".join(excerpt(name) for name in plan.unmatched[:NAMES_SHOWN])
        raise InvalidSharding(
            f"sharding.rules: no rule matches {len(plan.unmatched)} tensors of {unmatched} bytes, "
            f"more than half of the checkpoint's {total} ({names}, …); every rank would hold them "
            "whole: write rules for them, or allow it with sharding.allowUnmatched "
            "(--allow-unmatched)"
        )

    def _refuse_idle_experts(self, plan: ShardingPlan) -> None:
        degree = self.parallelism.expert
        if degree > 1 and not any(c.expert is not None or c.axis("expert") for c in plan.kinds):
            raise InvalidSharding(
                f"parallelism.expert: {degree}: no rule cuts experts of this model; use 1"
            )


def check_rule(rule: Rule) -> None:
    """See that what a rule says can be meant.

    Raises:
        InvalidSharding: an unknown strategy, or details that its strategy does not have.
    """

    def refuse(why: str) -> InvalidSharding:
        return InvalidSharding(f"sharding.rules: {excerpt(rule.match)!r} {why}")

    if rule.strategy not in STRATEGIES:
        raise refuse(
            f"names the unknown strategy {excerpt(rule.strategy)!r}; use one of {list(STRATEGIES)}"
        )
    if rule.inner and (rule.strategy != "experts" or rule.inner not in INNER_STRATEGIES):
        raise refuse(
            f"has inner {excerpt(rule.inner)!r}; inner is for the strategy experts, and one of "
            f"{list(INNER_STRATEGIES)}"
        )
    strategy = rule.inner or rule.strategy
    if rule.parts and strategy not in ("packed", "heads"):
        raise refuse(f"has parts, which are for packed and heads, not {strategy}")
    if strategy == "heads" and (len(rule.parts) > 1 or not set(rule.parts) <= set(HEAD_PARTS)):
        raise refuse(f"has parts {list(rule.parts)}; heads takes one of {list(HEAD_PARTS)}")
    if any(
        not (isinstance(part, int) and part > 0) and part not in HEAD_PARTS for part in rule.parts
    ):
        raise refuse(
            f"has parts {list(rule.parts)}; use {', '.join(HEAD_PARTS)} or whole numbers above 0"
        )
    if len({isinstance(part, int) for part in rule.parts}) > 1:
        raise refuse("has parts that are heads and parts that are numbers; use either")
    if rule.uneven not in ("refuse", "chunk"):
        raise refuse(f"has uneven {excerpt(rule.uneven)!r}; use refuse or chunk")
    if rule.uneven != "refuse" and strategy not in ("column", "row", "packed"):
        raise refuse(f"has uneven, which is for column, row and packed, not {strategy}")
    if rule.transposed and strategy not in ("column", "row", "packed", "heads"):
        raise refuse(f"has transposed, which is for column, row, packed and heads, not {strategy}")
    if rule.multiple < 1 or (rule.multiple != VOCAB_MULTIPLE and strategy != "vocab"):
        raise refuse(f"has multiple {rule.multiple}; it is for vocab, and 1 or more")


def leader_of(name: str) -> str | None:
    """Name of the weight whose rule a tensor follows where no rule names itself, if any.

    A bias follows the weight beside it, or that of fused experts, and a companion of a quantised
    weight its weight, which blocks and scales of fused experts stand for.
    """
    if name.endswith(".bias"):
        return f"{name.removesuffix('.bias')}.weight"
    if name.endswith("_bias"):
        return name.removesuffix("_bias")
    return weight_of(name) or fused_weight_of(name)


def _unsupported(metadata: CheckpointMetadata) -> UnsupportedArchitecture:
    weight = next((t.name for t in metadata.tensors.values() if len(t.shape) == 2), "model.weight")
    model_type = metadata.config.model_type
    close = get_close_matches(model_type, FAMILIES)
    similar = f", like {', '.join(close)}," if close else ""
    return UnsupportedArchitecture(
        f"config.json: model_type {excerpt(model_type)!r} has no built-in plan ({len(FAMILIES)} "
        f"types{similar} have one); write rules, for example "
        f"sharding.rules: [{{match: {excerpt(weight)!r}, strategy: column}}]"
    )
