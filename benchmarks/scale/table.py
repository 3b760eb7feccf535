"""The figures of all runs as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median

from benchmarks.scale.api import Json

BURSTS = {
    "create": "created, to Ready",
    "change": "source changed: new layout, a group beside the old, switched",
    "scale": "scaled from 1 group to 2",
    "delete": "deleted",
}
COLUMNS = {
    "cpuMillisecondsPerModel": "CPU of the operator, ms",
    "callsPerModel": "API calls",
    "secondsUntilAllAreThere": "burst, s",
    "peakRssMiB": "peak RSS, MiB",
}

Cell = Callable[[Json], float]

CALM: dict[tuple[str, str], Cell] = {
    ("touch", "single changes"): lambda s: s["eventToReconciledSeconds"]["n"],
    ("touch", "event to reconciled, median, ms"): lambda s: _milliseconds(s, "median"),
    ("touch", "event to reconciled, p99, ms"): lambda s: _milliseconds(s, "p99"),
    ("touch", "event to reconciled, longest, ms"): lambda s: _milliseconds(s, "most"),
    ("idle", "minutes in which nothing changes"): lambda s: round(s["seconds"] / 60, 1),
    ("idle", "API writes in them, counted by the server"): lambda s: s["serverWrites"],
    ("idle", "API writes in them, counted by the operator"): lambda s: s["operatorWrites"],
    ("idle", "calls for the Lease in them"): lambda s: s["leaseCalls"],
    ("idle", "CPU in them, s"): lambda s: s["operatorCpuSeconds"],
    ("idle", "RSS then, MiB"): lambda s: s["rssMiB"],
    ("restart", "start on what is there: s until ready"): lambda s: s["secondsUntilReady"],
    ("restart", "start: CPU, s"): lambda s: s["operatorCpuSeconds"],
    ("restart", "start: API writes"): lambda s: s["operatorWrites"],
    ("restart", "start: peak RSS, MiB"): lambda s: s["peakRssMiB"],
}
"""Stage and title of each figure."""


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
            found = [run[stage] for run in runs if stage in run]
            cells = [_figure(each[column] for each in found) for column in COLUMNS]
            lines.append(f"| {title} | {models} | " + " | ".join(cells) + " |")
    lines.append(
        "\nCPU and calls are per model and stage. Bursts are limited by what makes the pods as "
        "well: 3 s pass between a Job's start and end, and between a rank's start and readiness.\n"
    )
    return "\n".join(lines)


def _calm_table(groups: dict[int, list[Json]]) -> str:
    lines = ["## When the burst has passed\n"]
    lines.append("| models | " + " | ".join(map(str, groups)) + " |")
    lines.append("|---|" + "---|" * len(groups))
    for (stage, title), cell in CALM.items():
        cells = [
            _figure(cell(run[stage]) for run in runs if stage in run) for runs in groups.values()
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _figure(values: Iterable[float]) -> str:
    """The median, and the range if there is one."""
    found = sorted(values)
    if not found:
        return "-"
    middle = f"{median(found):g}"
    return middle if found[0] == found[-1] else f"{middle} ({found[0]:g} to {found[-1]:g})"


def _milliseconds(stage: Json, which: str) -> int:
    seconds: float = stage["eventToReconciledSeconds"][which]
    return round(1000 * seconds)
