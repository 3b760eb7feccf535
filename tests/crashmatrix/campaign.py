"""Going through many cells, in several lanes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tests.crashmatrix.deaths import Life
from tests.crashmatrix.faults import FAULTS, Fault, FaultCell, suffer
from tests.crashmatrix.lane import Lane, NotAlike
from tests.crashmatrix.lanes import Lanes
from tests.crashmatrix.lives import Cell, Endings, Living, undisturbed
from tests.crashmatrix.states import differences
from tests.crashmatrix.world import World


def say(text: str) -> None:
    """Print a line, with the time."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def baseline(several: Lanes) -> Endings:
    """Live undisturbed, twice: what differs between the two is not told by a death.

    Raises:
        NotAlike: they differ.
    """
    lives = several.each([0, 1], lambda lane, _: undisturbed(lane, say))
    for life in lives:
        if isinstance(life, Exception):
            raise life
    one, other = (life for life in lives if not isinstance(life, Exception))
    for step, ending in one.items():
        if found := list(differences(ending.state, other[step].state)):
            raise NotAlike(f"{step}: two undisturbed lives differ: {'; '.join(found)}")
    return one


def deaths(
    several: Lanes, endings: Endings, lives: Sequence[Life]
) -> tuple[list[Cell], list[Exception]]:
    """Go through the lives; gives the cells, and what broke a life off outside of a cell."""
    cells: list[Cell] = []

    def live(lane: Lane, life: Life) -> None:
        living = Living(lane, endings, lambda cell: say(str(cell)))
        try:
            living.go_through(life)
        finally:
            cells.extend(living.cells)

    results = several.each(lives, live)
    return sorted(cells, key=lambda cell: cell.death), [e for e in results if e is not None]


def faults(
    world: World, several: Lanes, endings: Endings, chosen: Sequence[Fault]
) -> tuple[list[FaultCell], list[Exception]]:
    """Go through the faults, those that all lanes feel one after the other."""

    def one(lane: Lane, fault: Fault) -> FaultCell:
        cell = suffer(world, lane, fault, endings)
        say(str(cell))
        return cell

    cells: list[FaultCell] = []
    broken: list[Exception] = []
    for alone in (False, True):
        tasks = [fault for fault in chosen if fault.victim.shared == alone]
        for result in several.each(tasks, one, alone=alone):
            if isinstance(result, FaultCell):
                cells.append(result)
            else:
                broken.append(result)
    return sorted(cells, key=lambda cell: FAULTS.index(cell.fault)), broken
