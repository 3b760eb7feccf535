"""Living a life: step by step, with the operator dying where it is told to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from tests.crashmatrix.calls import Call
from tests.crashmatrix.deaths import Death, Life
from tests.crashmatrix.lane import POLL_SECONDS, Lane, NotAlike, answered, until
from tests.crashmatrix.serving import Serving
from tests.crashmatrix.states import State, differences, is_going
from tests.crashmatrix.steps import STEPS, Step, taken

STEP_SECONDS = 240.0
"""Several times what a step takes on a busy machine: beyond it the end does not come."""
REST_SECONDS = 14.0
"""Without a call an undisturbed step has ended: progress is held back for up to 10 s."""
QUIET_SECONDS = 3.0
"""Without a call a state that is alike is taken for the end: longer than the operator's poll."""
SHOWN = 6
"""Differences that a message names."""

ALIKE = "alike"
NOT_REACHED = "not reached"


@dataclass(frozen=True)
class Ending:
    """What a step of an undisturbed life left, and how it came about."""

    state: State
    plain: State
    """The same without restarts and attempts."""
    trace: Sequence[Call]
    made: Sequence[str]


Endings = dict[str, Ending]
"""Of an undisturbed life, by step."""


@dataclass(frozen=True)
class Cell:
    """What became of one death."""

    death: Death
    call: str
    """What the operator was about when it died."""
    outcome: str
    """``alike``, ``not reached`` (the step took fewer calls this time), or what is wrong."""
    seconds: float
    namespace: str

    @property
    def failed(self) -> bool:
        """Whether it is neither of the good outcomes."""
        return self.outcome not in (ALIKE, NOT_REACHED)

    def __str__(self) -> str:
        death = self.death
        where = f"{self.namespace}, {death.step}, {death.when} call {death.number}"
        return f"{where} ({self.call or '-'}): {self.outcome}, {self.seconds:.0f} s"


@dataclass
class Living:
    """One life in its lane."""

    lane: Lane
    endings: Endings
    tell: Callable[[Cell], None]
    cells: list[Cell] = field(default_factory=list)

    def go_through(self, life: Life) -> None:
        """Take the life's steps; after a cell that failed the rest of it would tell nothing."""
        for step in taken(life.deaths):
            death, began = life.deaths.get(step.name), time.monotonic()
            outcome = self._step(step, death)
            if death is not None:
                seconds = time.monotonic() - began
                call = self._call(death) if outcome != NOT_REACHED else ""
                cell = Cell(death, call, outcome, seconds, self.lane.admin.namespace)
                self.cells.append(cell)
                self.tell(cell)
            elif outcome != NOT_REACHED:
                raise NotAlike(f"{step.name}, undisturbed: {outcome}")
            if outcome not in (ALIKE, NOT_REACHED):
                return

    def _step(self, step: Step, death: Death | None) -> str:
        executioner = self.lane.executioner
        executioner.watch_for(*(death.number, death.when) if death else (None,))
        serving = Serving(self.lane.admin)
        with serving if step.serves else nullcontext():
            step.do(self.lane)
            try:
                settle(self.lane, self.endings[step.name].state)
            except (NotAlike, AssertionError) as error:
                return str(error)
        if serving.gaps:
            return "; ".join(serving.gaps)
        surplus = list(
            differences(_objects(self.endings[step.name].made), _objects(executioner.made))
        )
        if surplus:
            return f"made: {'; '.join(surplus)}"
        return ALIKE if executioner.died else NOT_REACHED

    def _call(self, death: Death) -> str:
        return str(self.lane.executioner.trace[death.number])


def settle(lane: Lane, wanted: State, *, traces: bool = True) -> None:
    """Start another operator where the first was ended, and wait for the end that is wanted.

    Raises:
        NotAlike: it does not come in time; names what differs.
    """
    executioner, deadline = lane.executioner, time.monotonic() + STEP_SECONDS
    found: list[str] = []
    revived, calls, since = False, 0, time.monotonic()

    def is_alike() -> bool:
        found[:] = differences(wanted, lane.state(traces=traces))
        return not found

    while True:
        if executioner.died and not revived:
            lane.start_operator()
            revived = True
        if not answered(is_alike) or len(executioner.trace) != calls:
            calls, since = len(executioner.trace), time.monotonic()
        if time.monotonic() - since >= QUIET_SECONDS and revived == executioner.died:
            return
        if time.monotonic() > deadline:
            shown = "; ".join(found[:SHOWN])
            raise NotAlike(f"not alike after {STEP_SECONDS:.0f} s: {shown}")
        time.sleep(POLL_SECONDS)


def undisturbed(lane: Lane, say: Callable[[str], None]) -> Endings:
    """Live without a death, and tell what each step leaves.

    Raises:
        NotAlike: a step does not come to its end.
    """
    endings = {}
    for step in STEPS:
        lane.executioner.watch_for(None)
        step.do(lane)
        _rest(lane, step)
        executioner = lane.executioner
        trace, made = tuple(executioner.trace), tuple(executioner.made)
        ending = Ending(lane.state(), lane.state(traces=False), trace, made)
        endings[step.name] = ending
        say(f"undisturbed: {step.name}: {len(ending.trace)} calls")
    return endings


def _rest(lane: Lane, step: Step) -> None:
    calls, since = -1, time.monotonic()

    def rests() -> bool:
        nonlocal calls, since
        if len(lane.executioner.trace) != calls or not _has_come_true(lane):
            calls, since = len(lane.executioner.trace), time.monotonic()
        return time.monotonic() - since >= REST_SECONDS

    until(rests, lambda: f"{step.name}: rest", STEP_SECONDS)


def _has_come_true(lane: Lane) -> bool:
    """Whether the model is Ready as its spec is now, or has gone, and nothing is on its way out."""
    if any(body["kind"] != "Pod" and is_going(body) for body in lane.bodies()):
        return False
    model = lane.model()
    if model is None:
        return True
    status = model.get("status") or {}
    ready = [c for c in status.get("conditions", []) if c["type"] == "Ready"]
    current = status.get("observedGeneration") == model["metadata"]["generation"]
    return bool(current and [c["status"] for c in ready] == ["True"])


def _objects(made: Sequence[str]) -> dict[str, int]:
    """How often each object was made; Events are told of elsewhere."""
    paths = [path.rpartition("/namespaces/")[2].partition("/")[2] for path in made]
    return {path: paths.count(path) for path in paths if not path.startswith("events")}
