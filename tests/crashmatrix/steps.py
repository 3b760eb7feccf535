"""The steps of a life: what a user does or what happens, to a model, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from shardedmodel_operator.planning import labels
from tests.crashmatrix.lane import Lane
from tests.integration.operator.world import PODS


@dataclass(frozen=True)
class Step:
    """One step."""

    name: str
    do: Callable[[Lane], None]
    needed: bool = False
    """Whether a life takes it also when no death is tried in it."""
    serves: bool = True
    """Whether the model serves before it, and has to all the time."""
    undoes: str = ""
    """The step whose change it takes back: neither is taken without the other."""


def _create(lane: Lane) -> None:
    lane.apply()


def _scale_up(lane: Lane) -> None:
    lane.apply(replicas=2)


def _scale_down(lane: Lane) -> None:
    lane.apply(replicas=1)


def _lose_a_rank(lane: Lane) -> None:
    pod = lane.pods(labels.ROLE_RANK)[-1]["metadata"]["name"]
    lane.admin.request("DELETE", f"{PODS}/{pod}?gracePeriodSeconds=0")


def _reshard(lane: Lane) -> None:
    lane.apply(parallelism={"tensor": 4})


STEPS = (
    Step("create", _create, needed=True, serves=False),
    Step("scale from 1 group to 2", _scale_up),
    Step("scale from 2 groups to 1", _scale_down, undoes="scale from 1 group to 2"),
    Step("lose a rank's pod", _lose_a_rank, serves=False),
    Step("re-shard from 2 to 4 ranks", _reshard),
    Step("delete with `retention: Delete`", Lane.delete, needed=True, serves=False),
)
"""In their order. A group that loses a rank serves no more until the rank is back."""


def taken(names: Collection[str]) -> list[Step]:
    """The steps of a life that is to have those of ``names``."""
    pairs = {step.undoes: step.name for step in STEPS if step.undoes}
    wanted = {*names, *(one for one, other in pairs.items() if other in names)}
    wanted |= {other for one, other in pairs.items() if one in names}
    return [step for step in STEPS if step.needed or step.name in wanted]
