"""Who dies, by SIGKILL, and who brings it back: the kubelet, a controller, or, of servers, we."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shardedmodel_operator.planning import labels
from tests.crashmatrix.lane import Lane
from tests.crashmatrix.world import World
from tests.integration.operator.world import PODS

AWAY_SECONDS = 5.0
"""A server is away for so long: longer than one attempt of a client waits before the next."""

Strike = Callable[[World, Lane], None]


@dataclass(frozen=True)
class Victim:
    """One who dies."""

    name: str
    strike: Strike
    shared: bool = False
    """Whether all lanes feel it, so that no other may go on meanwhile."""
    serves: bool = False
    """Whether it is a rank of the only group that serves: then the model cannot go on serving."""


def rank(number: int, kind: str, *, newest: bool = False, serves: bool = False) -> Victim:
    """A rank of the oldest group, or of the newest revision: its processes, or its pod."""
    which = f"rank {number} of the new group" if newest else f"rank {number}"

    def strike(world: World, lane: Lane) -> None:
        pods = lane.pods(labels.ROLE_RANK)
        ages = [pod["metadata"]["creationTimestamp"] for pod in pods]
        chosen = (max if newest else min)(
            (p for p in pods if p["metadata"]["name"].endswith(f"-{number}")),
            key=lambda pod: (ages[pods.index(pod)], pod["metadata"]["name"]),
        )
        _end(lane, chosen["metadata"]["name"], chosen["metadata"]["uid"], kind)

    return Victim(f"{which}: its {kind}", strike, serves=serves)


def job(role: str, kind: str) -> Victim:
    """The pod of a Job: its process, or itself."""

    def strike(world: World, lane: Lane) -> None:
        running = [p for p in lane.pods(role) if p["status"]["phase"] == "Running"]
        metadata = running[-1]["metadata"]
        _end(lane, metadata["name"], metadata["uid"], kind)

    return Victim(f"the {role} Job: its {kind}", strike)


def _store(world: World, lane: Lane) -> None:
    lane.store.server.kill()
    lane.store.valve.release()
    time.sleep(AWAY_SECONDS)
    lane.store.server.start()


def component(name: str) -> Victim:
    """A part of the control plane."""

    def strike(world: World, lane: Lane) -> None:
        world.cluster.kill_component(name)
        lane.store.valve.release()
        time.sleep(AWAY_SECONDS)
        world.cluster.start_component(name)
        world.cluster.wait_for_server()

    return Victim(name, strike, shared=True)


STORE = Victim("the S3 server", _store)
API_SERVER = component("kube-apiserver")
ETCD = component("etcd")
SERVERS = (STORE, API_SERVER, ETCD)


def _end(lane: Lane, name: str, uid: str, kind: str) -> None:
    if kind == "pod":
        lane.admin.request("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0")
        return
    killed = [process for process in processes_of(uid) if _kill(process)]
    assert killed, f"{name} has no process"


def _kill(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
        return True
    return False


def processes_of(uid: str) -> list[int]:
    """Processes of a pod's containers, as this host sees them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            groups = (folder / "cgroup").read_text()
            # The sandbox's own process holds the pod's network; the pod goes with it.
            if f"pod{uid}" in groups and (folder / "comm").read_text().strip() != "pause":
                found.append(int(folder.name))
    return found
