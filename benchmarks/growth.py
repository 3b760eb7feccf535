"""What growth costs: the load of one rank by its bytes, and by its number of tensors.

Run with ``make bench-loader``; writes ``growth-<date>.json`` and ``.png`` beside this file. Each
load has a process of its own, forked where all is imported; from files safetensors' own
``load_file`` takes turns with it. The checkpoints' weights are zeros, which a loader cannot tell
from others; the layouts' files are real, and in the page cache as a load before has left them.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, TypeVar

from benchmarks import records
from benchmarks.link import GIGABITS, Link
from benchmarks.nginx import Nginx
from benchmarks.peers.files import safetensors
from benchmarks.peers.task import Task, evict
from benchmarks.presharder import write_hollow_checkpoint
from shardedmodel_runtime.layout.manifest import read_manifest
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader, open_layout
from shardedmodel_runtime.sharding.rules import Rule
from tests.builders.layout import shard
from tests.s3server import S3Server

T = TypeVar("T")

MEGABYTES = (100, 500, 2000, 8000)
"""Of one rank, in tensors of ``TENSOR_MEGABYTES``: eighty times the bytes, all in the cache."""
TENSOR_MEGABYTES = 50
"""A layer's weight of a model of some 7 billion parameters."""
TENSORS = (10, 100, 1_000, 10_000, 100_000)
"""Of one rank, in ``MEGABYTES_OF_TENSORS`` together."""
MEGABYTES_OF_TENSORS = 200
"""A hundred thousand tensors are of 2 kB then: norms and scales, hardly anything to read."""
TENSORS_OVER_LINK = (10, 1_000, 100_000)
"""Of one rank, in ``MEGABYTES_OVER_LINK`` together."""
MEGABYTES_OVER_LINK = 2000
"""A hundred thousand tensors are of 20 kB then: very many experts, cut for many ranks."""
ROUNDS = 5
"""Loads of each case: two that are disturbed leave the median where it is."""
BUCKET = "growth"
LINK = f"a link of {GIGABITS} Gb/s"
PEER = "safetensorsTakes"
"""Name in the record: its seconds for the same files, as a multiple of manifest and load."""


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
    """

    metadata: float
    load: float
    cpu: float
    peer: float | None = None


def make_layout(folder: Path, megabytes: int, tensors: int) -> str:
    """Cut a checkpoint of equal tensors for one rank; gives the layout's URI."""
    elements = megabytes * 10**6 // 2 // tensors
    shapes = {f"layers.{n // 10}.part.{n % 10}.weight": (elements,) for n in range(tensors)}
    source = folder / f"model-{megabytes}-{tensors}"
    write_hollow_checkpoint(source, {"model_type": "growth"}, shapes)
    rules = (Rule("*", "replicate"),)
    return shard(source.as_uri(), (folder / "layouts").as_uri(), 1, rules=rules)[2]


def upload(server: S3Server, uri: str) -> str:
    """Put a layout behind the S3 server; gives its URI there."""
    layout = Path(uri.removeprefix("file://"))
    with closing(server.client()) as client:
        for file in (file for file in layout.rglob("*") if file.is_file()):
            client.upload_file(str(file), BUCKET, f"{layout.name}/{file.relative_to(layout)}")
    return f"s3://{BUCKET}/{layout.name}"


def cases(folder: Path, server: S3Server, linked: Nginx) -> list[Case]:
    """Make everything that is loaded; ``linked`` serves the folder's folders over a link."""
    found: list[Case] = []

    def behind_link(uri: str) -> tuple[str, str]:
        return uri.replace(folder.as_uri(), "s3:/"), linked.plain_url

    for size in MEGABYTES:
        count = size // TENSOR_MEGABYTES
        uri = make_layout(folder, size, count)
        found.append(Case("bytes, page cache", size, count, uri))
        found.append(Case(f"bytes, {LINK}", size, count, *behind_link(uri)))
    with closing(server.client()) as client:
        client.create_bucket(Bucket=BUCKET)
    for count in TENSORS:
        uri = make_layout(folder, MEGABYTES_OF_TENSORS, count)
        sized = (MEGABYTES_OF_TENSORS, count)
        found.append(Case("tensors, page cache", *sized, uri))
        found.append(Case("tensors, SeaweedFS", *sized, upload(server, uri), server.endpoint_url))
    for count in TENSORS_OVER_LINK:
        uri = make_layout(folder, MEGABYTES_OVER_LINK, count)
        sized = (MEGABYTES_OVER_LINK, count)
        found.append(Case(f"tensors, {LINK}", *sized, *behind_link(uri)))
    return found


def load_once(case: Case) -> Seconds:
    """Load in a process of its own, and by the peer in another."""
    if case.endpoint_url:
        return _in_process(_load, case)
    return replace(_after_a_first(_load, case), peer=_after_a_first(_load_by_peer, case))


def _after_a_first(work: Callable[[Case], T], case: Case) -> T:
    """Load twice; of the second, whose files are in the page cache, give what it tells."""
    evict(_task(case).paths)
    _in_process(work, case)
    return _in_process(work, case)


def _in_process(work: Callable[[Case], T], case: Case) -> T:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(work, case).result()


def _load(case: Case) -> Seconds:
    config = ModelLoadConfig(layout=case.uri, endpoint_url=case.endpoint_url, device="cpu")
    with open_layout(config) as store:
        began, began_cpu = perf_counter(), process_time()
        manifest = read_manifest(store)
        metadata = perf_counter() - began
    shard = DistributedCheckpointLoader(config).load(manifest)
    assert len(shard.state_dict) == case.tensors
    return Seconds(metadata, shard.report.seconds, process_time() - began_cpu)


def _load_by_peer(case: Case) -> float:
    load = safetensors(_task(case))
    began = perf_counter()
    loaded = load()
    seconds = perf_counter() - began
    assert isinstance(loaded, dict)
    assert len(loaded) == case.tensors
    return seconds


def _task(case: Case) -> Task:
    folder = Path(case.uri.removeprefix("file://"))
    shards = sorted(folder.rglob("*.safetensors"))
    return Task(case.uri, "", [str(shard.relative_to(folder)) for shard in shards], [])


def take_turns(all_cases: Sequence[Case], rounds: int) -> dict[Case, list[Seconds]]:
    """Load every case once in each round, in an order that changes; once more before, unmeasured.

    The first time brings what a machine has to do once: files into the page cache.
    """
    results: dict[Case, list[Seconds]] = {case: [] for case in all_cases}
    for number in range(rounds + 1):
        order = random.Random(number).sample(all_cases, len(all_cases))
        for case in order:
            seconds = load_once(case)
            if number:
                results[case].append(seconds)
    return results


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
        figures: dict[str, Any] = {
            "megabytes": case.megabytes,
            "tensors": case.tensors,
            "metadataSeconds": _places(run.metadata for run in runs),
            "loadSeconds": _places(run.load for run in runs),
            "cpuSeconds": _places(run.cpu for run in runs),
            "secondsPerGigabyte": _places(run.load / case.megabytes * 1e3 for run in runs),
            "ofTheFirst": _places(
                (run.load / case.megabytes) / (other.load / first.megabytes)
                for run, other in zip(runs, first_runs, strict=True)
            ),
        }
        peers = [run.peer / (run.metadata + run.load) for run in runs if run.peer is not None]
        if peers:
            figures[PEER] = _places(peers)
        if case.tensors > first.tensors and case.megabytes == first.megabytes:
            pairs = zip(runs, first_runs, strict=True)
            added = median(run.cpu - other.cpu for run, other in pairs)
            each = added / (case.tensors - first.tensors)
            figures["cpuMicrosecondsPerTensor"] = round(each * 1e6, 2)
        scenes.setdefault(case.scene, []).append(figures)
    return scenes


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
            for row in rows
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the dated files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="loads of each case")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder")
    options = parser.parse_args()
    load_before = os.getloadavg()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(S3Server())
        link = stack.enter_context(Link())
        linked = stack.enter_context(Nginx(folder, folder / "linked", link))
        os.environ |= server.environment
        results = take_turns(cases(folder, server, linked), options.rounds)
    scenes = summarize(results)
    record = records.heading("one rank's load by its bytes and by its number of tensors") | {
        "rounds": options.rounds,
        "scenes": scenes,
        "loadAverage": {"before": load_before, "after": os.getloadavg()},
    }
    path = records.write(record, options.output, "growth")
    draw(scenes, path.with_suffix(".png"))
    print(table(scenes), path, sep="\n")


if __name__ == "__main__":
    main()
