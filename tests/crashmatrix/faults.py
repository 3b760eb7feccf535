"""The second table: what else dies, in each phase."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from shardedmodel_operator.planning.labels import ROLE_CLEANUP, ROLE_SHARD
from tests.crashmatrix import phases
from tests.crashmatrix.lane import Lane, NotAlike
from tests.crashmatrix.lives import ALIKE, Endings, settle
from tests.crashmatrix.phases import Phase
from tests.crashmatrix.serving import Serving
from tests.crashmatrix.victims import SERVERS, Victim, job, rank
from tests.crashmatrix.world import World


@dataclass(frozen=True)
class Fault:
    """One cell."""

    phase: Phase
    victim: Victim

    def __str__(self) -> str:
        return f"{self.phase.name}, {self.victim.name}"


@dataclass(frozen=True)
class FaultCell:
    """What became of it."""

    fault: Fault
    outcome: str
    """``alike``, or what is wrong."""
    seconds: float
    """From the death to the end that was demanded; servers are away for some of it."""
    served: str
    """Whether the model served all the time: ``yes``, what was missing, or why it need not."""
    namespace: str

    @property
    def failed(self) -> bool:
        """Whether the end is another, or the model did not serve though it should."""
        return self.outcome != ALIKE

    def __str__(self) -> str:
        told = f"{self.outcome}, {self.seconds:.0f} s, served: {self.served}"
        return f"{self.namespace}, {self.fault}: {told}"


def _faults() -> list[Fault]:
    shard = (job(ROLE_SHARD, "process"), job(ROLE_SHARD, "pod"))
    ranks = [rank(number, kind) for number in (0, 1) for kind in ("process", "pod")]
    by_phase: dict[Phase, Sequence[Victim]] = {
        phases.SHARDING: shard,
        phases.LOADING: ranks,
        phases.READY: ranks,
        phases.RESHARDING: (*shard, rank(0, "pod", serves=True)),
        phases.SURGE: (
            rank(0, "process", serves=True),
            rank(1, "pod", serves=True),
            *(rank(n, kind, newest=True) for n in (0, 3) for kind in ("process", "pod")),
        ),
        phases.DELETION: (job(ROLE_CLEANUP, "process"), job(ROLE_CLEANUP, "pod")),
    }
    return [
        Fault(phase, victim)
        for phase, victims in by_phase.items()
        for victim in (*victims, *SERVERS)
    ]


FAULTS = tuple(_faults())


def suffer(world: World, lane: Lane, fault: Fault, endings: Endings) -> FaultCell:
    """Bring the lane to the phase, let the victim die, and see what comes of it."""
    try:
        fault.phase.bring(lane, endings)
        return _strike(world, lane, fault, endings)
    finally:
        lane.store.valve.release()  # the next life has the same store


def _strike(world: World, lane: Lane, fault: Fault, endings: Endings) -> FaultCell:
    watched = fault.phase.serves and not fault.victim.serves
    serving, began = Serving(lane.admin), time.monotonic()
    outcome = ALIKE
    with serving if watched else nullcontext():
        fault.victim.strike(world, lane)
        lane.store.valve.release()
        try:
            settle(lane, fault.phase.wanted(endings), traces=False)
        except NotAlike as error:
            outcome = str(error)
    seconds = time.monotonic() - began
    if serving.gaps:
        outcome = "; ".join([*serving.gaps, *([] if outcome == ALIKE else [outcome])])
    return FaultCell(fault, outcome, seconds, _served(fault, serving), lane.admin.namespace)


def _served(fault: Fault, serving: Serving) -> str:
    if not fault.phase.serves:
        return "did not before"
    if fault.victim.serves:
        return "not demanded: the only group lost a rank"
    return "no" if serving.gaps else "yes"
