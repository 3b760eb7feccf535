"""One cell of the matrix: a rank is ended in a phase, and the group is looked at."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.builders.pods import PodGroup
from tests.faultproxy.campaign import Bench
from tests.killmatrix.phases import Phase, bring_to

WORLD_SIZE = 3
"""Rank 0, a rank that is ended, and one that nothing happens to."""
END_SECONDS = 5.0
"""Within which SIGTERM ends a pod."""


@dataclass(frozen=True)
class Recovery:
    """How a group came back."""

    incarnation: int
    seconds: float
    """From the new process's start to a ready group; importing torch is most of it."""


def kill(bench: Bench, folder: Path, phase: Phase, rank: int) -> Recovery:
    """Kill a rank's process in a phase, start its pod again, and wait for the group.

    Raises:
        AssertionError: a pod was ready without its group, or a byte was read twice.
    """
    with pods(bench, folder) as group:
        bring_to(phase, group, rank, bench)
        before = _bytes_read(group, rank) if phase in (Phase.LOAD, Phase.READY) else {}
        group.pods[rank].kill_rank()
        assert group.pods[rank].process.returncode == 128 + signal.SIGKILL
        if phase is not Phase.READY:
            assert not any(pod.is_ready for pod in group.pods.values())
        bench.proxy.release()
        began = time.monotonic()
        group.start(rank)
        group.wait_ready()
        seconds = time.monotonic() - began
        report = group.pods[0].report
        manifest = bench.layout.manifest
        assert report.formed
        assert [r.bytes_read for r in report.ranks] == [
            manifest.rank_bytes(r) for r in range(WORLD_SIZE)
        ]
        assert before.items() <= _bytes_read(group, rank).items()
        return Recovery(report.incarnation, seconds)


def terminate(bench: Bench, folder: Path, phase: Phase, rank: int) -> float:
    """Send SIGTERM to a rank's pod in a phase; gives the seconds until it ended.

    Raises:
        AssertionError: it did not end well, or not in time.
    """
    with pods(bench, folder) as group:
        bring_to(phase, group, rank, bench)
        seconds = group.pods[rank].terminate()
        assert group.pods[rank].process.returncode == 0
        assert seconds < END_SECONDS
        return seconds


@contextmanager
def pods(bench: Bench, folder: Path, *arguments: str) -> Iterator[PodGroup]:
    """Give a group none of whose pods is started; they end with the context."""
    group = PodGroup(
        bench.uri,
        folder,
        WORLD_SIZE,
        arguments=("--endpoint-url", bench.proxy.endpoint_url, *arguments),
        environment=bench.server.environment,
    )
    try:
        yield group
    finally:
        bench.proxy.release()
        group.stop()


def _bytes_read(group: PodGroup, but: int) -> dict[int, int]:
    """What each other rank's process has read so far."""
    return {rank: pod.own_rank(rank).bytes_read for rank, pod in group.pods.items() if rank != but}
