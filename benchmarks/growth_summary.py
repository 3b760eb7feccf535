"""What growth costs, as figures, a table and a picture: of loads that ``growth.py`` measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import records

PEER = "safetensorsTakes"
"""Name in the record: its seconds for the same files, as a multiple of manifest and load."""
HELD = "heldMemorySecondsPerGigabyte"
"""Name in the record: of loads into the memory of an earlier one."""


@dataclass(frozen=True, slots=True)
class Case:
    """One layout behind one store.

    Args:
        scene: the cases that are compared with each other.
        megabytes: of the rank's tensors.
        tensors: how many they are.
        uri: of the layout.
        endpoint_url: of an S3 server; empty for files.
    """

    scene: str
    megabytes: int
    tensors: int
    uri: str
    endpoint_url: str = ""


@dataclass(frozen=True, slots=True)
class Seconds:
    """One load: the manifest, read and checked; then everything until tensors are there.

    ``cpu`` is what both together took of the cores, which other work on the machine changes least.
    ``peer`` is what safetensors takes for the same files, every page touched; None where it cannot.
    ``held`` is a load into the memory of an earlier one, where that is compared: what is left when
    no memory has to be made.
    """

    metadata: float
    load: float
    cpu: float
    peer: float | None = None
    held: float | None = None


def summarize(results: Mapping[Case, Sequence[Seconds]]) -> dict[str, list[dict[str, Any]]]:
    """Give each scene's figures, from its smallest case to its largest.

    ``safetensorsTakes`` so many times as long as manifest and load, in turns with them.
    ``ofTheFirst`` compares the load's seconds for each GB with the scene's first case, round by
    round. ``cpuMicrosecondsPerTensor`` is what tensors beyond those of the first case add.
    """
    scenes: dict[str, list[dict[str, Any]]] = {}
    firsts: dict[str, tuple[Case, Sequence[Seconds]]] = {}
    for case, runs in results.items():
        first, first_runs = firsts.setdefault(case.scene, (case, runs))
        pairs = list(zip(runs, first_runs, strict=True))
        figures = _figures_alone(case, runs) | {
            "ofTheFirst": _places(
                (run.load / case.megabytes) / (other.load / first.megabytes) for run, other in pairs
            )
        }
        if case.tensors > first.tensors and case.megabytes == first.megabytes:
            added = median(run.cpu - other.cpu for run, other in pairs)
            each = added / (case.tensors - first.tensors)
            figures["cpuMicrosecondsPerTensor"] = round(each * 1e6, 2)
        scenes.setdefault(case.scene, []).append(figures)
    return scenes


def _figures_alone(case: Case, runs: Sequence[Seconds]) -> dict[str, Any]:
    """Give what needs no other case of the scene."""
    figures: dict[str, Any] = {
        "megabytes": case.megabytes,
        "tensors": case.tensors,
        "metadataSeconds": _places(run.metadata for run in runs),
        "loadSeconds": _places(run.load for run in runs),
        "cpuSeconds": _places(run.cpu for run in runs),
        "secondsPerGigabyte": _places(run.load / case.megabytes * 1e3 for run in runs),
    }
    peers = [run.peer / (run.metadata + run.load) for run in runs if run.peer is not None]
    if peers:
        figures[PEER] = _places(peers)
    held = [run.held / case.megabytes * 1e3 for run in runs if run.held is not None]
    if held:
        figures[HELD] = _places(held)
    return figures


def _places(values: Iterable[float]) -> dict[str, float]:
    """Give the spread to four places: manifests of few tensors take less than a millisecond."""
    return records.spread(values, places=4)


def draw(scenes: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw the seconds of manifest and load by what grows."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    size = (4 * len(scenes), 4)
    figure, axes = pyplot.subplots(1, len(scenes), figsize=size, layout="tight", squeeze=False)
    for axis, (scene, rows) in zip(axes[0], scenes.items(), strict=True):
        grows = "megabytes" if scene.startswith("bytes") else "tensors"
        across = [row[grows] for row in rows]
        for name, label in (("loadSeconds", "load"), ("metadataSeconds", "manifest")):
            axis.plot(across, [row[name]["median"] for row in rows], marker="o", label=label)
        axis.set(title=scene, xlabel=grows, ylabel="seconds", xscale="log", yscale="log")
        axis.legend()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def table(scenes: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Lay the medians out for people."""
    lines = []
    for scene, rows in scenes.items():
        lines.append(f"{scene}:")
        lines += [
            f"{row['megabytes']:>7} MB {row['tensors']:>7} tensors  "
            f"manifest {row['metadataSeconds']['median']:.4f} s  "
            f"load {row['loadSeconds']['median']:.3f} s  "
            f"cpu {row['cpuSeconds']['median']:.3f} s  "
            f"{row['secondsPerGigabyte']['median']:.3f} s/GB  "
            f"{row['ofTheFirst']['median']:.2f} of the first"
            + (f"  safetensors {row[PEER]['median']:.2f} times as long" if PEER in row else "")
            + (f"  {row[HELD]['median']:.3f} s/GB into held memory" if HELD in row else "")
            for row in rows
        ]
    return "\n".join(lines)
