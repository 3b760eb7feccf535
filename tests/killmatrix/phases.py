"""Bringing a group to the phase in which one of its ranks is to be ended.

The proxy before the store keeps answers back, so that a phase lasts as long as the test wants.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import StrEnum

from tests.builders.pods import PodGroup, eventually
from tests.faultproxy.campaign import Bench


class Phase(StrEnum):
    """Phases of a rank, in their order."""

    START = "start"
    JOIN = "join"
    METADATA = "metadata"
    LOAD = "load"
    BARRIER = "barrier"
    READY = "ready"


def bring_to(phase: Phase, group: PodGroup, rank: int, bench: Bench) -> None:
    """Start the group's pods, and return when ``rank`` is in the phase."""
    _STEPS[phase](group, rank, bench)


def _start(group: PodGroup, rank: int, bench: Bench) -> None:
    """Its process exists; torch is not imported yet."""
    _start_others(group, rank)
    group.start(rank)
    eventually(lambda: bool(group.pods[rank].rank_processes()), "started")


def _join(group: PodGroup, rank: int, bench: Bench) -> None:
    """It waits for the store; rank 0 has just begun to serve it."""
    if rank == 0:
        bench.proxy.hold("manifest.json")
        _start_others(group, rank)
        group.start(rank)
        eventually(lambda: _listens(group.master_port), "serving the store")
    else:
        group.start(rank)
        eventually(lambda: _is(group, rank, "joining"), "joining")
        for other in (0, *range(1, group.world_size)):
            if other != rank:
                group.start(other)


def _metadata(group: PodGroup, rank: int, bench: Bench) -> None:
    """It waits for the manifest, which rank 0 waits for from the store."""
    bench.proxy.hold("manifest.json")
    group.start_all()
    eventually(lambda: bench.proxy.held > 0, "asking for the manifest")
    eventually(lambda: "join" in _report(group, rank), "waiting for the manifest")


def _load(group: PodGroup, rank: int, bench: Bench) -> None:
    """It reads its object; the others have read theirs."""
    bench.proxy.hold(bench.layout.manifest.objects_of(rank)[0].key)
    group.start_all()
    eventually(lambda: bench.proxy.held > 0, "asking for the object")
    for other in range(group.world_size):
        state = "loading" if other == rank else "loaded"
        eventually(lambda other=other, state=state: _is(group, other, state), state)  # type: ignore[misc]


def _barrier(group: PodGroup, rank: int, bench: Bench) -> None:
    """It waits for another rank, which has not read its object yet."""
    late = (rank + 1) % group.world_size
    bench.proxy.hold(bench.layout.manifest.objects_of(late)[0].key)
    group.start_all()
    eventually(lambda: bench.proxy.held > 0, "asking for the object")
    eventually(lambda: _is(group, rank, "loaded"), "loaded")


def _ready(group: PodGroup, rank: int, bench: Bench) -> None:
    """It is ready, and so are the others."""
    group.start_all()
    group.wait_ready()


def _start_others(group: PodGroup, rank: int) -> None:
    for other in range(group.world_size):
        if other != rank:
            group.start(other)


def _is(group: PodGroup, rank: int, state: str) -> bool:
    pod = group.pods[rank]
    return pod.is_served and pod.own_rank(rank).state == state


def _report(group: PodGroup, rank: int) -> dict[str, float]:
    pod = group.pods[rank]
    return pod.own_rank(rank).phase_seconds if pod.is_served else {}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


_STEPS: dict[Phase, Callable[[PodGroup, int, Bench], None]] = {
    Phase.START: _start,
    Phase.JOIN: _join,
    Phase.METADATA: _metadata,
    Phase.LOAD: _load,
    Phase.BARRIER: _barrier,
    Phase.READY: _ready,
}
