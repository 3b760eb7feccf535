"""Everything that a run needs: etcd, the API server, the operator, and how they are read."""

from __future__ import annotations

import re
import time
from pathlib import Path

from benchmarks.scale.api import Api
from benchmarks.scale.readings import (
    Reading,
    cpu_seconds,
    memory,
    operator_calls,
    server_writes,
)
from tests.integration.operator.conftest import SYSTEM
from tests.integration.operator.world import OperatorProcess

READY_SECONDS = 300.0
"""Longest wait for an operator that starts on many models, on a machine that is not idle."""


class World:
    """The operator in front of an API server; both are read from outside."""

    def __init__(self, api: Api, kubeconfig: Path, folder: Path) -> None:
        self._api = api
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._lives = 0
        self.operator = self._start()

    def restart_operator(self) -> None:
        """Kill the operator and start another."""
        self.operator.kill()
        self.operator = self._start()

    async def read(self) -> Reading:
        """Read all counters."""
        metrics = self.operator.get("/metrics")
        rss, peak = memory(self.operator.pid)
        found = re.findall(r"^shardedmodel_operator_reconciles_total\{.*\} (\d+)", metrics, re.M)
        return Reading(
            at=time.monotonic(),
            cpu=cpu_seconds(self.operator.pid),
            rss=rss,
            peak=peak,
            calls=operator_calls(metrics),
            reconciles=sum(map(int, found)),
            server_writes=await self.server_writes(),
        )

    async def server_writes(self) -> int:
        """Writes of the operator's kinds so far, by anybody."""
        return server_writes(await self._api.text("GET", "/metrics"))

    def _start(self) -> OperatorProcess:
        self._lives += 1
        log = self._folder / f"operator-{self._lives}.log"
        # As the chart runs it.
        lease = f"{SYSTEM}/shardedmodel-operator"
        return OperatorProcess(
            self._kubeconfig,
            log,
            ready_within=READY_SECONDS,
            variables={"SHARDEDMODEL_LEASE": lease},
        ).__enter__()
