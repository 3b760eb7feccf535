"""The figures of all runs as Markdown."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.scale.api import Json

BURSTS = ("create", "scale", "change", "delete")
TITLES = {
    "create": "created, to Ready",
    "scale": "scaled from 1 group to 2",
    "change": "source changed: new layout, 2 groups beside the old, switched",
    "delete": "deleted",
}

Cell = Callable[[Json], object]


def table(record: Json) -> str:
    """Write all runs side by side."""
    machine = record["machine"]
    runs: list[Json] = record["runs"]
    head = (
        f"# Many models on one operator, {record['date']}\n\n"
        f"etcd, API server (Kubernetes {record['kubernetes']}) and operator on {machine['cores']} "
        f"cores, {machine['system']}, with whatever else ran there; pods of paper. Models of two "
        f"ranks in {record['namespaces']} namespaces, every tenth with `retention: Delete`; one "
        "run of each number.\n"
    )
    return "\n".join([head, _burst_table(runs), _calm_table(runs)])


def _burst_table(runs: list[Json]) -> str:
    lines = ["## What a model costs, all of them at once\n"]
    lines.append("| | models | CPU of the operator, ms | API calls | burst, s | peak RSS, MiB |")
    lines.append("|---|---|---|---|---|---|")
    for stage in BURSTS:
        for run in runs:
            found = run[stage]
            lines.append(
                f"| {TITLES[stage]} | {run['models']} | {found['cpuMillisecondsPerModel']} "
                f"| {found['callsPerModel']} | {found['secondsUntilAllAreThere']} "
                f"| {found['peakRssMiB']} |"
            )
    lines.append(
        "\nCPU and calls are per model and stage. Bursts are limited by what makes the pods as "
        "well: 3 s pass between a Job's start and end, and between a rank's start and readiness.\n"
    )
    return "\n".join(lines)


def _calm_table(runs: list[Json]) -> str:
    rows: list[tuple[str, Cell]] = [
        ("single changes", lambda r: r["touch"]["eventToReconciledSeconds"]["n"]),
        ("event to reconciled, median, ms", lambda r: _milliseconds(r, "median")),
        ("event to reconciled, p99, ms", lambda r: _milliseconds(r, "p99")),
        ("event to reconciled, longest, ms", lambda r: _milliseconds(r, "most")),
        ("minutes in which nothing changes", lambda r: round(r["idle"]["seconds"] / 60, 1)),
        ("API writes in them, counted by the server", lambda r: r["idle"]["serverWrites"]),
        ("API writes in them, counted by the operator", lambda r: r["idle"]["operatorWrites"]),
        ("calls for the Lease in them", lambda r: r["idle"]["leaseCalls"]),
        ("CPU in them, s", lambda r: r["idle"]["operatorCpuSeconds"]),
        ("RSS then, MiB", lambda r: r["idle"]["rssMiB"]),
        ("start on what is there: s until ready", lambda r: r["restart"]["secondsUntilReady"]),
        ("start: CPU, s", lambda r: r["restart"]["operatorCpuSeconds"]),
        ("start: API writes", lambda r: r["restart"]["operatorWrites"]),
        ("start: peak RSS, MiB", lambda r: r["restart"]["peakRssMiB"]),
    ]
    lines = ["## When the burst has passed\n"]
    lines.append("| models | " + " | ".join(str(run["models"]) for run in runs) + " |")
    lines.append("|---|" + "---|" * len(runs))
    for title, cell in rows:
        lines.append(f"| {title} | " + " | ".join(str(cell(run)) for run in runs) + " |")
    return "\n".join(lines) + "\n"


def _milliseconds(run: Json, which: str) -> int:
    seconds: float = run["touch"]["eventToReconciledSeconds"][which]
    return round(1000 * seconds)
