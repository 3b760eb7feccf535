"""What a plan comes to, in as few lines as it has kinds of tensors: for people, before a cut.

Tensors whose names differ in numbers alone (layers, experts) and that are cut alike are one group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from shardedmodel_runtime.formats.hf import ModelConfig
from shardedmodel_runtime.sharding.cuts import AxisCut, TensorCut
from shardedmodel_runtime.sharding.plan import ShardingPlan

REPLICATED_SHARE = 0.2
"""Of a rank's bytes: replicated norms and routers are a few percent, so more is worth a look."""
IMBALANCE = 1.2
"""Stages or ranks with so many times the mean leave the others waiting or half empty."""

Home = tuple[tuple[int, ...] | None, int | None]
"""The stages and the expert rank that hold a tensor; None: all of them."""

_NUMBER = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")


@dataclass(slots=True)
class TensorGroup:
    """Tensors that are cut alike and whose names differ in numbers alone.

    Args:
        pattern: their names, with ``*`` for the numbers.
        cut: how one of them is cut.
        matched: whether a rule named them.
        count: how many there are.
        nbytes: of all of them, each counted once.
        rank_bytes: the most that one rank holds of them.
    """

    pattern: str
    cut: TensorCut
    matched: bool
    count: int = 0
    nbytes: int = 0
    rank_bytes: int = 0


class PlanOverview:
    """Groups, bytes and warnings of a plan.

    Args:
        plan: the plan.
        config: of the model.
    """

    def __init__(self, plan: ShardingPlan, config: ModelConfig) -> None:
        self.plan = plan
        self._config = config

    @cached_property
    def groups(self) -> list[TensorGroup]:
        """All tensors in groups, in the order in which they first occur."""
        plan, unmatched = self.plan, set(self.plan.unmatched)
        alike = [_alike(cut) for cut in plan.kinds]
        held = [self._most_held(cut) for cut in plan.kinds]
        groups: dict[tuple[object, ...], TensorGroup] = {}
        homes: dict[tuple[object, ...], dict[Home, int]] = {}
        for (name, cut), kind in zip(plan.cuts.items(), plan.kind_of, strict=True):
            pattern, matched = _NUMBER.sub("*", name), name not in unmatched
            key: tuple[object, ...] = (pattern, alike[kind], matched)
            group = groups.get(key)
            if group is None:
                group = groups[key] = TensorGroup(pattern, cut, matched)
                homes[key] = {}
            group.count += 1
            group.nbytes += cut.nbytes
            home = (cut.stages, cut.expert)
            homes[key][home] = homes[key].get(home, 0) + held[kind]
        for key, group in groups.items():
            group.rank_bytes = self._most_at_one_place(homes[key])
        return list(groups.values())

    @cached_property
    def rank_bytes(self) -> list[int]:
        """Bytes that each rank holds."""
        return [self.plan.rank_bytes(rank) for rank in range(self.plan.parallelism.world_size)]

    @property
    def largest_rank(self) -> int:
        """The rank that holds most, the first of several."""
        return self.rank_bytes.index(max(self.rank_bytes))

    @cached_property
    def replicated(self) -> list[TensorGroup]:
        """Groups that several ranks hold whole."""
        return [group for group in self.groups if self._holders(group.cut) > 1]

    @property
    def replicated_bytes(self) -> int:
        """Bytes of what several ranks hold whole, each tensor counted once."""
        return sum(group.nbytes for group in self.replicated)

    def warnings(self) -> list[str]:
        """What is worth a look before the plan is carried out."""
        return [
            *self._of_unmatched(),
            *self._of_replicated(),
            *self._of_repeated_heads(),
            *self._of_crossed_heads(),
            *self._of_pad(),
            *self._of_uneven(),
            *self._of_imbalance(),
        ]

    def _holders(self, cut: TensorCut) -> int:
        """Ranks that hold a tensor whole; 0 where it is cut."""
        degrees = self.plan.parallelism
        stages = degrees.pipeline if cut.stages is None else len(cut.stages)
        experts = degrees.expert if cut.expert is None else 1
        return 0 if cut.axes else degrees.tensor * stages * experts

    def _most_held(self, cut: TensorCut) -> int:
        """The most bytes that one rank holds of one tensor."""
        tensor, expert = cut.axis("tensor"), cut.axis("expert")
        return max(
            cut.local_bytes(t, e)
            for t in range(len(tensor.ranges) if tensor else 1)
            for e in range(len(expert.ranges) if expert else 1)
        )

    def _most_at_one_place(self, homes: dict[Home, int]) -> int:
        degrees = self.plan.parallelism
        return max(
            sum(
                held
                for (stages, home), held in homes.items()
                if (stages is None or stage in stages) and home in (None, expert)
            )
            for stage in range(degrees.pipeline)
            for expert in range(degrees.expert)
        )

    def _of_unmatched(self) -> Iterator[str]:
        if self.plan.unmatched:
            yield (
                f"no rule matched {len(self.plan.unmatched)} tensors of "
                f"{self.plan.unmatched_bytes:,} bytes; every rank would hold them whole"
            )

    def _of_replicated(self) -> Iterator[str]:
        share = sum(group.rank_bytes for group in self.replicated) / max(*self.rank_bytes, 1)
        if share > REPLICATED_SHARE:
            yield f"{share:.0%} of what a rank holds is replicated: cut more, or use fewer ranks"

    def _of_repeated_heads(self) -> Iterator[str]:
        repeated = [group for group in self.groups if _repeats(group.cut)]
        if repeated:
            yield (
                f"{self._config.key_value_heads} key-value heads are fewer than tensor ranks: "
                f"several ranks hold the same ones, in {sum(g.count for g in repeated)} tensors"
            )

    def _of_crossed_heads(self) -> Iterator[str]:
        heads, width = self._config.attention_heads, self._config.head_dim
        crossed = [
            group.pattern
            for group in self.groups
            if group.cut.strategy in ("column", "row")
            for axis in group.cut.axes
            if heads * width and group.cut.shape[axis.dim] == heads * width
            if any(bound % width for spans in axis.ranges for span in spans for bound in span)
        ]
        if crossed:
            yield f"{crossed[0]}: a cut goes through an attention head; use the strategy 'heads'"

    def _of_pad(self) -> Iterator[str]:
        for group in self.groups:
            for axis in group.cut.axes:
                if sum(axis.pad):
                    yield f"{group.pattern}: dimension {axis.dim} is padded by {sum(axis.pad)} rows"

    def _of_uneven(self) -> Iterator[str]:
        for group in self.groups:
            for axis in group.cut.axes:
                rows = _rows(axis)
                if not sum(axis.pad) and len(set(rows)) > 1:
                    yield (
                        f"{group.pattern}: dimension {axis.dim} of {group.cut.shape[axis.dim]} is "
                        f"cut unevenly, {min(rows)} to {max(rows)} rows"
                    )

    def _of_imbalance(self) -> Iterator[str]:
        degrees = self.plan.parallelism
        per_stage = degrees.tensor * degrees.expert
        stages = [
            sum(self.rank_bytes[first : first + per_stage])
            for first in range(0, degrees.world_size, per_stage)
        ]
        mean = sum(stages) / len(stages)
        if max(stages) > IMBALANCE * mean:
            yield (
                f"stage {stages.index(max(stages))} holds {max(stages) / mean:.0%} of the mean "
                "stage's bytes"
            )


def _alike(cut: TensorCut) -> object:
    """What tensors of one group have in common: all but the ranks that hold them."""
    return (cut.dtype, cut.cast_from, cut.shape, cut.strategy, cut.axes)


def _rows(axis: AxisCut) -> list[int]:
    return [sum(stop - start for start, stop in spans) for spans in axis.ranges]


def _repeats(cut: TensorCut) -> bool:
    """Whether several tensor ranks hold the same rows."""
    axis = cut.axis("tensor")
    spans = sorted(span for spans in axis.ranges for span in spans) if axis else []
    return any(before[1] > after[0] for before, after in pairwise(spans))
