"""What is done to the cluster and when: drawn by a seed, so that a run can be had again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import TypeVar

from tests.soak.choices import (
    DEGREES,
    DTYPES,
    FLAWS_OF_PODS,
    IMAGE,
    OTHER_IMAGE,
    SOURCES,
    Choice,
    Flaw,
)

T = TypeVar("T")

PAUSE_SECONDS = 7.0
"""Mean pause between two actions. At 5 s, two cores that others used too fell behind,
and models were hardly ever Ready in between."""
OPERATOR_PAUSE_SECONDS = 120.0
"""Mean pause between two kills of the operator: after some, the kubelet waits for minutes."""
STORE_PAUSE_SECONDS = 240.0
"""Mean pause between two kills of the S3 server, whose loss stops everybody."""
OUTAGE_SHARE = 0.6
"""Operator and S3 server are killed within this share of the time. So the last operator's memory is
seen over the rest, and everybody's back-off may end."""
REPLICAS = (0, 1, 1, 1, 2, 2)
"""Groups to scale to, as often as each is drawn."""
JOB_SECONDS = (1.0, 5.0)
"""After which a Job's pod is killed: a guess at its life, so that some find no pod any more."""
FLAW_SHARE = 0.12
"""Of new specs, so that of ten models one or two are Stalled."""
SUSPEND_SHARE = 0.12


class Kind(StrEnum):
    """Kinds of actions."""

    APPLY = "apply"
    EDIT = "edit"
    SCALE = "scale"
    DELETE = "delete"
    RECREATE = "recreate"
    KILL_RANK = "kill rank"
    KILL_JOB = "kill Job"
    KILL_OPERATOR = "kill operator"
    KILL_STORE = "kill S3 server"


WEIGHTS = {
    Kind.EDIT: 34,
    Kind.SCALE: 12,
    Kind.DELETE: 12,
    Kind.RECREATE: 10,
    Kind.KILL_RANK: 22,
    Kind.KILL_JOB: 10,
}
"""How often each is drawn for a model that exists; one that does not is applied."""
FIELDS = {
    "tensor": 4,
    "setting": 3,
    "dtype": 2,
    "revision": 2,
    "suspend": 2,
    "image": 2,
    "flaw": 2,
    "source": 1,
    "recreate": 1,
}
"""How often each field of a spec is edited."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that is done."""

    at: float
    """Seconds after the start."""
    kind: Kind
    model: str = ""
    """Name of the model; empty for operator and S3 server."""
    choice: Choice | None = None
    """What the model is asked to be from now on; None where that does not change."""
    pick: int = 0
    """Which of the pods that are there, and how: see ``faults``."""

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.at:6.1f} s {self.kind} {self.model}".rstrip()


@dataclass(frozen=True, slots=True)
class Script:
    """All that is done in one soak."""

    seed: int
    seconds: float
    models: tuple[str, ...]
    actions: tuple[Action, ...]

    @property
    def wanted(self) -> dict[str, Choice]:
        """What is asked for when all of it is done; a model that was deleted is absent."""
        wanted: dict[str, Choice] = {}
        for action in self.actions:
            if action.kind is Kind.DELETE:
                wanted.pop(action.model, None)
            elif action.choice is not None:
                wanted[action.model] = action.choice
        return wanted


def draw(seed: int, models: int, seconds: float) -> Script:
    """Draw a script.

    Args:
        seed: equal seeds draw equal scripts.
        models: how many names there are; every second one has its layouts deleted with it.
        seconds: how long it lasts.
    """
    names = tuple(f"soak-{number}" for number in range(models))
    random = Random(seed)
    outages = seconds * OUTAGE_SHARE
    actions = [
        *_changes(random, names, seconds),
        *_kills(random, Kind.KILL_OPERATOR, OPERATOR_PAUSE_SECONDS, outages),
        *_kills(random, Kind.KILL_STORE, STORE_PAUSE_SECONDS, outages),
    ]
    return Script(seed, seconds, names, tuple(sorted(actions, key=lambda action: action.at)))


def _kills(random: Random, kind: Kind, pause: float, until: float) -> Iterator[Action]:
    at = random.expovariate(1 / pause)
    while round(at, 1) < until:
        yield Action(round(at, 1), kind, pick=random.randrange(1000))
        at += random.expovariate(1 / pause)


def _changes(random: Random, names: tuple[str, ...], seconds: float) -> Iterator[Action]:
    """Draw what is done to models; all of them are applied first, in a quarter of the pauses."""
    wanted: dict[str, Choice] = {}
    at = 0.0
    for name in names:
        at += random.expovariate(4 / PAUSE_SECONDS)
        wanted[name] = _new(random, _passing(name, names))
        yield Action(round(at, 1), Kind.APPLY, name, wanted[name])
    while (at := at + random.expovariate(1 / PAUSE_SECONDS)) < seconds:
        name = random.choice(names)
        for action in _change(random, round(at, 1), name, wanted, _passing(name, names)):
            if action.kind is Kind.DELETE:
                del wanted[name]
            elif action.choice is not None:
                wanted[name] = action.choice
            yield action


def _passing(name: str, names: tuple[str, ...]) -> bool:
    return names.index(name) % 2 == 1


def _change(
    random: Random, at: float, name: str, wanted: Mapping[str, Choice], passing: bool
) -> Iterator[Action]:
    if name not in wanted:
        yield Action(at, Kind.APPLY, name, _new(random, passing))
        return
    kind = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    choice = wanted[name]
    match kind:
        case Kind.EDIT:
            yield Action(at, kind, name, _edited(random, choice))
        case Kind.SCALE:
            count = _other(random, REPLICAS, choice.replicas)
            yield Action(at, kind, name, replace(choice, replicas=count))
        case Kind.RECREATE:
            yield Action(at, kind, name, _new(random, passing))
        case Kind.KILL_RANK:
            yield Action(at, kind, name, pick=random.randrange(1000))
        case Kind.KILL_JOB:
            # A Job lives for seconds: one is asked for first.
            anew = replace(choice, revision=choice.revision + 1, flaw=Flaw.NONE)
            yield Action(at, Kind.EDIT, name, anew)
            later = round(at + random.uniform(*JOB_SECONDS), 1)
            yield Action(later, kind, name, pick=random.randrange(1000))
        case _:
            yield Action(at, kind, name)


def _new(random: Random, passing: bool) -> Choice:
    return Choice(
        source=random.choice(SOURCES),
        tensor=random.choice(DEGREES),
        dtype=random.choice(DTYPES),
        suspend=random.random() < SUSPEND_SHARE,
        passing=passing,
        recreate=random.random() < 0.25,
        flaw=random.choice(_flaws(passing)) if random.random() < FLAW_SHARE else Flaw.NONE,
    )


def _edited(random: Random, choice: Choice) -> Choice:
    """Change one field, and mend what was wrong on purpose, as a user does."""
    field = random.choices(list(FIELDS), list(FIELDS.values()))[0]
    mended = replace(choice, flaw=Flaw.NONE)
    match field:
        case "tensor":
            return replace(mended, tensor=_other(random, DEGREES, choice.tensor))
        case "setting":
            return replace(mended, setting=choice.setting + 1)
        case "dtype":
            return replace(mended, dtype=_other(random, DTYPES, choice.dtype))
        case "revision":
            return replace(mended, revision=choice.revision + 1)
        case "suspend":
            return replace(mended, suspend=not choice.suspend)
        case "image":
            return replace(mended, image=_other(random, (IMAGE, OTHER_IMAGE), choice.image))
        case "flaw":
            return replace(choice, flaw=_other(random, _flaws(choice.passing), choice.flaw))
        case "source":
            return replace(mended, source=_other(random, SOURCES, choice.source))
        case _:
            return replace(mended, recreate=not choice.recreate)


def _other(random: Random, values: Sequence[T], value: T) -> T:
    return random.choice([each for each in values if each != value])


def _flaws(passing: bool) -> list[Flaw]:
    """Flaws to choose from.

    Where pods cannot start, the Job that deletes a layout cannot either, and the model stays for
    ten minutes, as is documented.
    """
    flaws = [flaw for flaw in Flaw if flaw is not Flaw.NONE]
    return [flaw for flaw in flaws if not (passing and flaw in FLAWS_OF_PODS)]
