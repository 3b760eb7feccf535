"""Which deaths are tried, and in which lives: pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.crashmatrix.calls import Call
from tests.crashmatrix.executioner import When


@dataclass(frozen=True, order=True)
class Death:
    """The operator's, at one call of one step."""

    step: str
    number: int
    """Of the call within the step, from 0."""
    when: When


@dataclass(frozen=True)
class Life:
    """What one model goes through: the steps to take, and where the operator dies."""

    deaths: Mapping[str, Death] = field(default_factory=dict)
    """At most one in each step."""


def deaths_of(traces: Mapping[str, Sequence[Call]]) -> list[Death]:
    """Every death that there is to try.

    Args:
        traces: the calls of an undisturbed life, by step. A look is lost before its answer or
            after it alike, so it is one death; a write is two.
    """
    return [
        Death(step, number, when)
        for step, trace in traces.items()
        for number, call in enumerate(trace)
        for when in _whens(call)
    ]


def sample(deaths: Sequence[Death], count: int, seed: int) -> list[Death]:
    """Take so many by chance, as evenly from the steps as they have them."""
    chance = random.Random(seed)
    by_step: dict[str, list[Death]] = {}
    for death in deaths:
        by_step.setdefault(death.step, []).append(death)
    for of_step in by_step.values():
        chance.shuffle(of_step)
    taken: list[Death] = []
    while len(taken) < min(count, len(deaths)):
        for of_step in by_step.values():
            if of_step and len(taken) < count:
                taken.append(of_step.pop())
    return sorted(taken, key=deaths.index)


def lives_of(deaths: Sequence[Death]) -> list[Life]:
    """Put as many deaths into a life as it has steps: the steps before are the costly part."""
    lives: list[dict[str, Death]] = []
    for death in deaths:
        free = next((life for life in lives if death.step not in life), None)
        if free is None:
            lives.append(free := {})
        free[death.step] = death
    return [Life(life) for life in lives]


def _whens(call: Call) -> tuple[When, ...]:
    return ("before", "after") if call.writes else ("before",)
