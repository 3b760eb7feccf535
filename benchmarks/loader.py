"""Compare loaders: the same bytes from the same server, pair by pair in one run.

Run with ``make bench-loader``; writes ``loader-<date>.json``, ``.md`` and ``.png`` beside this
file. A machine's speed drifts by a third within an hour, so loaders take turns in every round and
only ratios within a round are compared.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from benchmarks import records
from benchmarks.link import GIGABITS, Link
from benchmarks.nginx import Nginx
from benchmarks.peers.task import Task, evict
from benchmarks.presharder import big_llama
from benchmarks.summary import summarize, write
from benchmarks.trust import trusting
from shardedmodel_runtime.layout.manifest import Manifest
from tests.builders.checkpoint import llama_shapes, write_checkpoint
from tests.builders.layout import shard
from tests.s3server import S3Server

THREAD_COUNTS = (1, 2, 4, 8)
"""Of which the raw limit takes the best, found beforehand for each server.

Which it is differs between servers and days; 8 is what the other loaders have.
"""
MEGABYTES = 700
"""Of the layers: 0.88 GB with embeddings, so that a load over the link takes most of a second."""
ROUNDS = 5
"""Of which two that are disturbed leave the median where it is."""
_S3 = (
    *("ours", "ours, unverified", "ours, held memory", "boto3", "obstore"),
    *("runai-model-streamer", "s3torchconnector", "raw", "raw, new memory"),
)
_FILES = (
    *("ours", "ours, unverified", "ours, held memory", "preadv", "preadv, new memory"),
    *("runai-model-streamer", "safetensors", "fastsafetensors"),
)


@dataclass(frozen=True)
class Scene:
    """One server and the loaders that can read from it."""

    name: str
    task: Task
    loaders: tuple[str, ...]
    limit: str
    """The loader that is the limit of the others."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def with_best_threads(self, runner: Runner) -> Scene:
        """Let the limit take its best number of threads."""
        if not self.task.endpoint_url:
            return self
        seconds = {
            count: runner.run(replace(self, task=replace(self.task, threads=count)), self.limit)[
                "seconds"
            ]
            for count in THREAD_COUNTS
        }
        best = min(seconds, key=lambda count: seconds[count])
        return replace(self, task=replace(self.task, threads=best))


class Runner:
    """Runs loaders, each time in a process of its own.

    Args:
        inside: the words that run a command where loaders are to run.
    """

    def __init__(self, inside: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", "benchmarks.peers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, scene: Scene, loader: str) -> dict[str, Any]:
        """Load once.

        Returns:
            ``seconds``, ``before`` and ``peakMemoryBytes``, or ``error``.
        """
        wanted = {
            "name": loader,
            "task": asdict(scene.task),
            "environment": dict(scene.environment),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # some loaders print on their own
                result: dict[str, Any] = json.loads(line)
                return result
        return {"error": "the runner ended"}


def scenes(
    folder: Path, server: S3Server, nginx: Nginx, linked: Nginx, layout: str
) -> Iterator[Scene]:
    """Put one layout behind every server; ``linked`` is the one behind a link."""
    path = Path(layout.removeprefix("file://"))
    manifest = Manifest.parse((path / "manifest.json").read_bytes())
    keys = [item.key for item in manifest.objects]
    sizes = [item.bytes for item in manifest.objects]
    with closing(server.client()) as client:
        client.create_bucket(Bucket="shards")
        for key in (*keys, "manifest.json"):
            client.upload_file(str(path / key), "shards", f"{path.name}/{key}")
    remote = f"s3://shards/{path.name}"
    environment = server.environment | {"AWS_EC2_METADATA_DISABLED": "true"}
    yield Scene(
        "SeaweedFS", Task(remote, server.endpoint_url, keys, sizes), _S3, "raw", environment
    )
    yield Scene(
        f"a link of {GIGABITS} Gb/s",
        Task(remote, linked.plain_url, keys, sizes),
        _S3,
        "raw",
        environment,
    )
    yield Scene("nginx", Task(remote, nginx.plain_url, keys, sizes), _S3, "raw", environment)
    yield Scene(
        "nginx with TLS",
        Task(remote, nginx.tls_url, keys, sizes, str(nginx.certificate)),
        _S3,
        "raw",
        environment | {"AWS_CA_BUNDLE": str(nginx.certificate)},
    )
    yield Scene("page cache", Task(layout, "", keys, sizes), _FILES, "preadv")


def take_turns(runner: Runner, scene: Scene, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run every loader once in each round, in an order that changes.

    Files are in the page cache as an earlier load by the same loader has left them.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in scene.loaders}
    for number in range(rounds):
        order = list(scene.loaders)
        random.Random(number).shuffle(order)
        for name in order:
            if not scene.task.endpoint_url:
                evict(scene.task.paths)
                runner.run(scene, name)  # the load before a restart
            results[name].append(runner.run(scene, name))
            print(scene.name, number, name, results[name][-1], flush=True)
    return results


def main() -> int:
    """Measure everything, and write the dated report."""
    parser = records.parser("loader", __doc__)
    parser.add_argument(
        "--megabytes", type=int, default=MEGABYTES, help="of the layers; embeddings come on top"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="loads by each loader")
    parser.add_argument("--only", help="a scene's name; default: all")
    options = parser.parse_args()
    load_before = os.getloadavg()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(S3Server())
        nginx = stack.enter_context(Nginx(folder, folder / "nginx"))
        runner = stack.enter_context(Runner(trusting(nginx.certificate, folder)))
        link = stack.enter_context(Link())
        linked = stack.enter_context(Nginx(folder, folder / "linked", link))
        config = big_llama(options.megabytes)
        write_checkpoint(folder / "model", config, llama_shapes(config), dtype="BF16")
        source = (folder / "model").as_uri()
        layout = shard(source, (folder / "shards").as_uri(), 1)[2]
        measured = {}
        for scene in scenes(folder, server, nginx, linked, layout):
            if options.only not in (None, scene.name):
                continue
            tuned = scene.with_best_threads(runner)
            measured[scene.name] = summarize(
                take_turns(runner, tuned, options.rounds), tuned.limit, tuned.task.total
            ) | {"limitThreads": tuned.task.threads, "bytes": tuned.task.total}
        record = {
            "scenes": measured,
            "loadAverage": {"before": load_before, "after": os.getloadavg()},
        }
    write(record, options.output, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
