"""From single runs to figures: medians, ratios within a round, tables and a picture."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import records

OURS = "ours"
"""The loader that all others are held against: this project's, as its users have it."""
PACKAGES = (
    *("runai-model-streamer", "s3torchconnector", "fastsafetensors", "safetensors"),
    *("boto3", "obstore", "torch"),
)
"""Whose versions the record names: everything that is compared, and what tensors are made by."""
QUIET_LOAD_OF_A_CORE = 0.75
"""Load average before a run: with more, less than half of one of two cores was free for it.

The highest of the averages over 1, 5 and 15 minutes counts: a neighbour that pauses comes back.
"""


def summarize(results: dict[str, list[dict[str, Any]]], limit: str, total: int) -> dict[str, Any]:
    """Give each loader's figures.

    Args:
        results: each loader's runs, round by round.
        limit: the loader that is the limit of the others.
        total: bytes that each run loads.
    """
    return {"limit": limit, "loaders": {n: _figures(n, results, limit, total) for n in results}}


def _figures(
    name: str, results: dict[str, list[dict[str, Any]]], limit: str, total: int
) -> dict[str, Any]:
    errors = [run["error"] for run in results[name] if "error" in run]
    if errors:
        return {"error": errors[0], "failedRuns": len(errors)}
    rates = [total / run["seconds"] / 1e9 for run in results[name]]
    peak = median(run["peakMemoryBytes"] - run["before"] for run in results[name])
    return {
        "runs": len(rates),
        "gigabytesPerSecond": _spread(rates),
        "ofTheLimit": _spread(_ratios(results, limit, name)),
        "oursIsFasterBy": _spread(_ratios(results, name, OURS)),
        "memoryOfBytes": round(peak / total, 3),
    }


def _ratios(results: dict[str, list[dict[str, Any]]], slow: str, fast: str) -> list[float]:
    """How many times faster the second is, round by round."""
    pairs = zip(results[slow], results[fast], strict=True)
    return [a["seconds"] / b["seconds"] for a, b in pairs if "error" not in a and "error" not in b]


def _spread(values: list[float]) -> dict[str, float] | None:
    return records.spread(values) if values else None


def write(record: dict[str, Any], folder: Path, rounds: int) -> None:
    """Write JSON, Markdown and a picture, dated."""
    record = {
        **records.heading("one safetensors layout into host memory, bfloat16 Llama"),
        "packages": {name: version(name) for name in PACKAGES},
        "rounds": rounds,
        **record,
    }
    path = records.write(record, folder, "loader")
    path.with_suffix(".md").write_text(markdown(record, path.stem))
    draw(record, path.with_suffix(".png"))
    print(path)


def markdown(record: dict[str, Any], name: str) -> str:
    """Write the report's text."""
    parts = [
        f"# Loaders compared, {record['date']}\n",
        f"{record['machine']['cores']} cores, {record['machine']['system']}. {_neighbours(record)} "
        f"{record['rounds']} rounds, loaders take turns in each; "
        "median (least to most). Ratios are of pairs within a round. `ours` checks every block. "
        f"[All figures](./{name}.json).\n",
        f"![GB/s of each loader](./{name}.png)\n",
    ]
    for scene, figures in record["scenes"].items():
        parts.append(_table(scene, figures))
    return "\n".join(parts)


def _neighbours(record: dict[str, Any]) -> str:
    """Say whether others used the machine, by its load before the run."""
    before = record["loadAverage"]["before"]
    quiet = max(before) <= QUIET_LOAD_OF_A_CORE * record["machine"]["cores"]
    loads = "/".join(f"{load:.1f}" for load in before)
    return f"Load average before (1/5/15 minutes) {loads}: " + (
        "the machine was quiet." if quiet else "others had just used the machine, or still did."
    )


def _table(scene: str, figures: dict[str, Any]) -> str:
    rows = [
        f"## {scene}: {figures['bytes'] / 1e9:.2f} GB\n",
        f"| loader | GB/s | of {figures['limit']} | ours is faster by | memory ÷ bytes |",
        "|---|---|---|---|---|",
    ]
    for name, its in figures["loaders"].items():
        if "error" in its:
            rows.append(f"| {name} | failed: {its['error']} | | | |")
        else:
            columns = [
                _text(its[key]) for key in ("gigabytesPerSecond", "ofTheLimit", "oursIsFasterBy")
            ]
            rows.append(f"| {name} | {' | '.join(columns)} | {its['memoryOfBytes']} |")
    return "\n".join([*rows, ""])


def _text(spread: dict[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"{spread['median']:.2f} ({spread['least']:.2f} to {spread['most']:.2f})"


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw GB/s of each loader, server by server."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    scenes = record["scenes"]
    size = (4 * len(scenes), 4)
    figure, axes = pyplot.subplots(1, len(scenes), figsize=size, layout="tight", squeeze=False)
    for axis, (scene, figures) in zip(axes[0], scenes.items(), strict=True):
        rates = {
            name: its["gigabytesPerSecond"]
            for name, its in figures["loaders"].items()
            if "error" not in its
        }
        order = sorted(rates, key=lambda name: rates[name]["median"])
        middle = [rates[name]["median"] for name in order]
        below = [rates[name]["median"] - rates[name]["least"] for name in order]
        above = [rates[name]["most"] - rates[name]["median"] for name in order]
        colors = ["tab:orange" if name == OURS else "tab:gray" for name in order]
        axis.barh(order, middle, xerr=[below, above], color=colors)
        axis.set_title(scene)
        axis.set_xlabel("GB/s")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
