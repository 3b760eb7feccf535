"""Rank pods as processes on loopback: the command that a container runs, with its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from shardedmodel_runtime.report import Failure, GroupReport, RankReport
from tests.s3server import free_ports

COMMAND = str(Path(sys.executable).with_name("shardedmodel"))
PATIENCE_SECONDS = 60.0
"""For what should take seconds: importing torch is slow where many tests share two cores."""


def free_port() -> int:
    """A port that nobody uses now, nor takes for an outgoing connection before it is used."""
    return free_ports(1)[0]


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not {what} after {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.1)


@dataclass
class Pod:
    """One pod's supervisor, and what it serves."""

    ordinal: int
    port: int
    termination_log: Path
    process: subprocess.Popen[bytes]

    def get(self, path: str) -> tuple[int, str]:
        """Ask for an address; status 0: nobody listens (yet, or any more)."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""
        except OSError:
            return 0, ""

    @property
    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    @property
    def report(self) -> GroupReport:
        return GroupReport.model_validate_json(self.get("/report")[1])

    @property
    def is_served(self) -> bool:
        """Whether the pod answers."""
        return self.get("/healthz")[0] != 0

    def own_rank(self, rank: int) -> RankReport:
        """How one of the pod's own ranks stands, as the pod itself says it, once it has begun."""
        own = (report for report in self.report.ranks if report.rank == rank)
        return next(own, RankReport(rank=rank))

    def rank_processes(self) -> list[int]:
        """Process ids of the pod's ranks."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in children.split()]

    def kill_rank(self) -> None:
        """Kill the pod's first rank process, and wait for the pod to end by it."""
        os.kill(self.rank_processes()[0], signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)

    def failure(self) -> tuple[int, Failure]:
        """Wait until the pod ends; give its exit code and termination message."""
        code = self.process.wait(PATIENCE_SECONDS)
        return code, Failure.model_validate_json(self.termination_log.read_bytes())

    def terminate(self) -> float:
        """Send SIGTERM, and give the seconds until the pod ended."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)
        return time.monotonic() - began


@dataclass
class PodGroup:
    """The pods of one group, as a StatefulSet would run them."""

    layout: str
    folder: Path
    world_size: int
    local_ranks: int = 1
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    master_port: int = field(default_factory=free_port)
    pods: dict[int, Pod] = field(default_factory=dict)

    def start(self, ordinal: int) -> Pod:
        """Start one pod, or start it again."""
        port, log = free_port(), self.folder / f"termination-{ordinal}"
        arguments = [
            *("rank", self.layout, "--world-size", str(self.world_size)),
            *("--local-ranks", str(self.local_ranks), "--port", str(port)),
            *("--termination-log", str(log), *self.arguments),
        ]
        environment = {
            **os.environ,
            "POD_NAME": f"model-{ordinal}",
            "POD_IP": "127.0.0.1",
            "NODE_NAME": "node",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.master_port),
            **self.environment,
        }
        process = subprocess.Popen([COMMAND, *arguments], env=environment)
        self.pods[ordinal] = Pod(ordinal, port, log, process)
        return self.pods[ordinal]

    def start_all(self) -> None:
        """Start every pod of the group."""
        for ordinal in range(self.world_size // self.local_ranks):
            self.start(ordinal)

    def wait_ready(self) -> None:
        """Wait until every pod is ready, and rank 0 knows that every rank is."""
        eventually(lambda: all(pod.is_ready for pod in self.pods.values()), "ready")
        eventually(lambda: {rank.state for rank in self.ranks()} == {"ready"}, "reported as ready")

    def ranks(self) -> list[RankReport]:
        """Every rank as rank 0's pod reports it."""
        return self.pods[0].report.ranks

    def stop(self) -> None:
        """End what still runs."""
        for pod in self.pods.values():
            pod.process.terminate()
        for pod in self.pods.values():
            pod.process.wait(PATIENCE_SECONDS)
