"""What is read of the operator's process, of its metrics and of the API server's."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from benchmarks.scale.api import Json
from shardedmodel_operator.cluster.resources import EVENTS, WATCHED

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024

Calls = Counter[str]
"""Calls by verb and resource."""

CALL = re.compile(
    r'^shardedmodel_operator_api_calls_total\{verb="(\w+)",resource="([\w/]+)".*} (\d+)'
)
REQUEST = re.compile(r"^apiserver_request_total\{(.*)\} (\d+)")
WRITES = ("POST", "PUT", "PATCH", "DELETE")
OBJECTS = frozenset(resource.plural for resource in (*WATCHED, EVENTS))
"""Kinds whose writes are counted at the API server: all that the operator writes but its Lease."""
READING = ("list", "watch")
LEASES = "leases"


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process: now, and at most so far."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(status["VmRSS"].split()[0]) * 1024, int(status["VmHWM"].split()[0]) * 1024


def operator_calls(metrics: str) -> Calls:
    """The operator's own count of its calls."""
    calls: Calls = Counter()
    for line in metrics.splitlines():
        if found := CALL.match(line):
            calls[f"{found[1]} {found[2]}"] += int(found[3])
    return calls


def server_writes(metrics: str) -> int:
    """Writes of the operator's kinds, by anybody, as the API server counts them."""
    total = 0
    for line in metrics.splitlines():
        if found := REQUEST.match(line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
            if labels["resource"] in OBJECTS and labels["verb"] in WRITES:
                total += int(found[2])
    return total


def own_calls(calls: Calls) -> Calls:
    """Without lists, watches and the Lease, which do not come of models."""
    return Counter(
        {
            call: count
            for call, count in calls.items()
            if call.split()[0] not in READING and call.split()[1] != LEASES
        }
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one time."""

    at: float
    cpu: float
    rss: int
    peak: int
    calls: Calls = field(repr=False)
    reconciles: int
    server_writes: int


def difference(before: Reading, after: Reading, models: int) -> Json:
    """What a stage cost."""
    calls = own_calls(after.calls - before.calls)
    return {
        "seconds": round(after.at - before.at, 1),
        "operatorCpuSeconds": round(after.cpu - before.cpu, 2),
        "cpuMillisecondsPerModel": round(1000 * (after.cpu - before.cpu) / models, 1),
        "reconcilesPerModel": round((after.reconciles - before.reconciles) / models, 2),
        "callsPerModel": round(calls.total() / models, 2),
        "callsPerModelByKind": {k: round(n / models, 2) for k, n in sorted(calls.items())},
        "rssMiB": round(after.rss / MIB, 1),
        "peakRssMiB": round(after.peak / MIB, 1),
    }


def spread(values: Iterable[float], digits: int = 3) -> Json:
    """Median, 99th percentile and range."""
    values = sorted(values)
    at_99 = quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]
    return {
        "n": len(values),
        "median": round(median(values), digits),
        "p99": round(at_99, digits),
        "least": round(values[0], digits),
        "most": round(values[-1], digits),
    }
