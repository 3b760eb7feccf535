"""What growth costs: the load of one rank by its bytes, and by its number of tensors.

Run with ``make bench-loader``; writes ``growth-<date>.json`` and ``.png`` beside this file. Each
load has a process of its own, forked where all is imported. Turns are taken from files with
safetensors' own ``load_file``, and over the link with a load into the memory of an earlier one,
which shows what the making of memory takes. The checkpoints' weights are zeros, which a loader
cannot tell from others; the layouts' files are real, and in the page cache as a load before has
left them.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeVar

from benchmarks import records
from benchmarks.growth_summary import Case, Seconds, draw, summarize, table
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
    """Load in a process of its own, and in another by what it is compared with."""
    if not case.endpoint_url:
        return replace(_after_a_first(_load, case), peer=_after_a_first(_load_by_peer, case))
    seconds = _in_process(_load, case)
    if not case.scene.startswith("bytes"):
        return seconds
    return replace(seconds, held=_in_process(_load_into_held_memory, case))


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


def _load_into_held_memory(case: Case) -> float:
    config = ModelLoadConfig(layout=case.uri, endpoint_url=case.endpoint_url, device="cpu")
    with open_layout(config) as store:
        loader = DistributedCheckpointLoader(config, store=store)
        return loader.load(into=loader.load()).report.seconds


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


def main() -> None:
    """Measure, and write the dated files."""
    parser = records.parser("growth", __doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="loads of each case")
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
