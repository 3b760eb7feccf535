"""The figures of all runs as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median

from benchmarks.scale.api import Json

BURSTS = {
    "create": "created, to Ready",
    "scale": "scaled from 1 group to 2",
    "change": "source changed: new layout, 2 groups beside the old, switched",
    "delete": "deleted",
}
COLUMNS = {
    "cpuMillisecondsPerModel": "CPU of the operator, ms",
    "callsPerModel": "API calls",
    "secondsUntilAllAreThere": "burst, s",
    "peakRssMiB": "peak RSS, MiB",
}

Cell = Callable[[Json], float]

CALM: dict[str, Cell] = {
    "single changes": lambda r: r["touch"]["eventToReconciledSeconds"]["n"],
    "event to reconciled, median, ms": lambda r: _milliseconds(r, "median"),
    "event to reconciled, p99, ms": lambda r: _milliseconds(r, "p99"),
    "event to reconciled, longest, ms": lambda r: _milliseconds(r, "most"),
    "minutes in which nothing changes": lambda r: round(r["idle"]["seconds"] / 60, 1),
    "API writes in them, counted by the server": lambda r: r["idle"]["serverWrites"],
    "API writes in them, counted by the operator": lambda r: r["idle"]["operatorWrites"],
    "calls for the Lease in them": lambda r: r["idle"]["leaseCalls"],
    "CPU in them, s": lambda r: r["idle"]["operatorCpuSeconds"],
    "RSS then, MiB": lambda r: r["idle"]["rssMiB"],
    "start on what is there: s until ready": lambda r: r["restart"]["secondsUntilReady"],
    "start: CPU, s": lambda r: r["restart"]["operatorCpuSeconds"],
    "start: API writes": lambda r: r["restart"]["operatorWrites"],
    "start: peak RSS, MiB": lambda r: r["restart"]["peakRssMiB"],
}


def table(record: Json) -> str:
    """Write the runs of each number of models side by side."""
    machine, groups = record["machine"], _by_models(record["runs"])
    counts = ", ".join(f"{len(runs)} of {models}" for models, runs in groups.items())
    head = (
        f"# Many models on one operator, {record['date']}\n\n"
        f"etcd, API server (Kubernetes {record['kubernetes']}) and operator on {machine['cores']} "
        f"cores, {machine['system']}, beside whatever else ran there (load average at the end "
        f"{record['loadAverage']}); pods of paper. Models of two ranks in {record['namespaces']} "
        f"namespaces, every tenth with `retention: Delete`. Runs: {counts} models; medians, with "
        "the range where there are several.\n"
    )
    return "\n".join([head, _burst_table(groups), _calm_table(groups)])


def _by_models(runs: Iterable[Json]) -> dict[int, list[Json]]:
    groups: dict[int, list[Json]] = {}
    for run in runs:
        groups.setdefault(run["models"], []).append(run)
    return groups


def _burst_table(groups: dict[int, list[Json]]) -> str:
    lines = ["## What a model costs, all of them at once\n"]
    lines.append("| | models | " + " | ".join(COLUMNS.values()) + " |")
    lines.append("|---|---|" + "---|" * len(COLUMNS))
    for stage, title in BURSTS.items():
        for models, runs in groups.items():
            cells = [_figure(run[stage][column] for run in runs) for column in COLUMNS]
            lines.append(f"| {title} | {models} | " + " | ".join(cells) + " |")
    lines.append(
        "\nCPU and calls are per model and stage. Bursts are limited by what makes the pods as "
        "well: 3 s pass between a Job's start and end, and between a rank's start and readiness. "
        "An operator that was restarted does not know which Events there are: repeating one costs "
        "it two calls more, the first time.\n"
    )
    return "\n".join(lines)


def _calm_table(groups: dict[int, list[Json]]) -> str:
    lines = ["## When the burst has passed\n"]
    lines.append("| models | " + " | ".join(map(str, groups)) + " |")
    lines.append("|---|" + "---|" * len(groups))
    for title, cell in CALM.items():
        cells = [_figure(map(cell, runs)) for runs in groups.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _figure(values: Iterable[float]) -> str:
    """The median, and the range if there is one."""
    found = sorted(values)
    middle = f"{median(found):g}"
    return middle if found[0] == found[-1] else f"{middle} ({found[0]:g} to {found[-1]:g})"


def _milliseconds(run: Json, which: str) -> int:
    seconds: float = run["touch"]["eventToReconciledSeconds"][which]
    return round(1000 * seconds)
