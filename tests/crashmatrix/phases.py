"""Phases of a model's life in which something dies, and how a lane is brought to each.

The valve before the store holds the one request that a phase waits for, so that a phase lasts until
something has died in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.crashmatrix.calls import Call
from tests.crashmatrix.lane import Lane, until
from tests.crashmatrix.lives import Endings, settle
from tests.crashmatrix.states import State
from tests.crashmatrix.store import SHARDS

HELD_SECONDS = 120.0
"""Until the request comes that a phase waits for: a pod is made and imports torch."""


@dataclass(frozen=True)
class Phase:
    """One phase."""

    name: str
    bring: Callable[[Lane, Endings], None]
    wanted: Callable[[Endings], State]
    """What there has to be in the end, restarts and attempts aside."""
    serves: bool = False
    """Whether the model serves in it."""


def commits(call: Call) -> bool:
    """Whether a Job writes its manifest: everything but the layout's beginning is done."""
    return call.method in ("PUT", "POST") and call.path.endswith("manifest.json")


def reads_shard_of(rank: int) -> Callable[[Call], bool]:
    """Whether that rank reads its shard; a Job reads only what others told of theirs."""

    def reads(call: Call) -> bool:
        shard = f"/tp-{rank:05d}-of-" in call.path and call.path.endswith(".safetensors")
        return call.method == "GET" and shard

    return reads


def deletes(call: Call) -> bool:
    """Whether a cleanup Job deletes objects, one by one or many at once."""
    return call.method == "DELETE" or (call.method == "POST" and call.path.strip("/") == SHARDS)


def _hold(lane: Lane, wanted: Callable[[Call], bool], do: Callable[[], None]) -> None:
    lane.store.valve.hold(wanted)
    do()
    until(lambda: lane.store.valve.held > 0, lambda: "the request that is held", HELD_SECONDS)


def _sharding(lane: Lane, endings: Endings) -> None:
    _hold(lane, commits, lane.apply)


def _loading(lane: Lane, endings: Endings) -> None:
    _hold(lane, reads_shard_of(1), lane.apply)


def _ready(lane: Lane, endings: Endings) -> None:
    lane.apply(replicas=2)
    settle(lane, endings["scale from 1 group to 2"].plain, traces=False)


def _created(lane: Lane, endings: Endings) -> None:
    lane.apply()
    settle(lane, endings["create"].plain, traces=False)


def _resharding(lane: Lane, endings: Endings) -> None:
    _created(lane, endings)
    _hold(lane, commits, lambda: lane.apply(parallelism={"tensor": 4}))


def _surge(lane: Lane, endings: Endings) -> None:
    _created(lane, endings)
    _hold(lane, reads_shard_of(3), lambda: lane.apply(parallelism={"tensor": 4}))


def _deletion(lane: Lane, endings: Endings) -> None:
    _created(lane, endings)
    _hold(lane, deletes, lane.delete)


def _after(step: str) -> Callable[[Endings], State]:
    return lambda endings: endings[step].plain


def _nothing(_: Endings) -> State:
    return {}


SHARDING = Phase("sharding", _sharding, _after("create"))
LOADING = Phase("loading and forming", _loading, _after("create"))
READY = Phase("ready, 2 groups", _ready, _after("scale from 1 group to 2"), serves=True)
_RESHARD = _after("re-shard from 2 to 4 ranks")
RESHARDING = Phase("re-shard, cutting", _resharding, _RESHARD, serves=True)
SURGE = Phase("re-shard, 4 ranks loading", _surge, _RESHARD, serves=True)
DELETION = Phase("deletion, layout going", _deletion, _nothing)
