"""Experts: whole ones to expert ranks, and what is inside an expert to tensor ranks.

A checkpoint holds experts fused in one tensor, along its dimension 0, or one tensor for each, with
the expert's number in its name. Without expert parallelism they are cut inside, by ``inner``; a
rule without ``inner`` then gives whole experts to tensor ranks, as the ``grouped_gemm`` plans of
transformers do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from shardedmodel_runtime.errors import InvalidSharding, excerpt
from shardedmodel_runtime.parallelism import MAX_DEGREE, Parallelism
from shardedmodel_runtime.sharding.cuts import AxisCut, Over, Range
from shardedmodel_runtime.sharding.names import PerAlike
from shardedmodel_runtime.sharding.strategies import Uncut, one_each

EXPERTS = "experts"
_NUMBERED = re.compile(r"expert[^.]*\.(\d+)(?:\.|$)")


class Expert(NamedTuple):
    """One expert that has tensors of its own.

    ``number`` is its number among them, ``siblings`` how many they are, itself included.
    """

    number: int
    siblings: int

    def owner(self, degree: int) -> int:
        """Which of ``degree`` ranks holds it; experts go to ranks in order, evenly."""
        return self.number * degree // self.siblings

    def owner_of(self, parallelism: Parallelism) -> tuple[int, int]:
        """What its cut depends on: the rank that would hold it whole, and the siblings."""
        degree = parallelism.expert if parallelism.expert > 1 else parallelism.tensor
        return self.owner(degree), self.siblings


def numbered_experts(names: Iterable[str]) -> dict[str, Expert]:
    """The expert of each name that has an expert's number in it."""
    found: dict[str, tuple[str, int]] = {}
    counts: dict[str, int] = {}
    number_in = PerAlike(lambda name: _span(_NUMBERED.search(name)))
    for name in names:
        span = number_in(name)
        if span:
            siblings, number = name[: span[0]], int(name[slice(*span)])
            found[name] = (siblings, number)
            counts[siblings] = max(counts.get(siblings, 0), number + 1)
    return {name: Expert(number, counts[siblings]) for name, (siblings, number) in found.items()}


def _span(match: re.Match[str] | None) -> Range | None:
    return match.span(1) if match else None


@dataclass(frozen=True, slots=True)
class ExpertCut:
    """How a tensor of experts is cut: its axes, and the one expert rank that holds it if any."""

    axes: tuple[AxisCut, ...]
    owner: int | None = None


Inner = Callable[[Uncut], AxisCut | None]


def cut_fused(tensor: Uncut, parallelism: Parallelism, inner: Inner | None) -> ExpertCut:
    """Cut a tensor that holds experts along dimension 0.

    Raises:
        InvalidSharding: the ranks do not divide the experts, or ``inner`` does not fit.
    """
    tensor.need_dimensions(1)
    if parallelism.expert == 1 and inner is None:
        return ExpertCut((_among(tensor, parallelism, over_tensor=True),))
    axes = []
    if parallelism.expert > 1:
        axes.append(_among(tensor, parallelism, over_tensor=False))
    inside = inner(replace(tensor, shape=tensor.shape[1:])) if inner else None
    if inside:
        axes.append(replace(inside, dim=inside.dim + 1))
    return ExpertCut(tuple(axes))


def cut_numbered(
    tensor: Uncut, expert: Expert, parallelism: Parallelism, inner: Inner | None
) -> ExpertCut:
    """Cut a tensor of one expert.

    Raises:
        InvalidSharding: the ranks do not divide the experts, or ``inner`` does not fit.
    """
    axis = inner(tensor) if inner else None
    if parallelism.expert > 1:
        _need_divisor(tensor, expert.siblings, "expert", parallelism.expert)
        return ExpertCut((axis,) if axis else (), expert.owner(parallelism.expert))
    if inner is None:
        _need_divisor(tensor, expert.siblings, "tensor", parallelism.tensor)
        axis = _whole_on(tensor, expert.owner(parallelism.tensor))
    return ExpertCut((axis,) if axis else ())


def _among(tensor: Uncut, parallelism: Parallelism, *, over_tensor: bool) -> AxisCut:
    over: Over = "tensor" if over_tensor else "expert"
    degree = getattr(parallelism, over)
    count = tensor.shape[0]
    _need_divisor(tensor, count, over, degree)
    share = count // degree
    bounds: list[Range] = [(rank * share, (rank + 1) * share) for rank in range(degree)]
    return replace(tensor, over=over, degree=degree).cut(0, one_each(bounds))


def _whole_on(tensor: Uncut, owner: int) -> AxisCut:
    """All of a tensor on one tensor rank, nothing on the others."""
    tensor.need_dimensions(1)
    everything: Range = (0, tensor.shape[0])
    nothing: Range = (0, 0)
    bounds = [everything if rank == owner else nothing for rank in range(tensor.degree)]
    return tensor.cut(0, one_each(bounds))


def _need_divisor(tensor: Uncut, count: int, over: str, degree: int) -> None:
    if count % degree:
        working = [number for number in range(1, min(count, MAX_DEGREE) + 1) if count % number == 0]
        raise InvalidSharding(
            f"parallelism.{over}: {degree} ranks cannot share the {count} experts of "
            f"{excerpt(tensor.name)!r}; use one of {working}"
        )
