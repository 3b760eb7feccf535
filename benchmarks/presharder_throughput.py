"""Measure the pre-sharder's throughput, pair by pair with what it is compared with.

Run with ``python -m benchmarks.presharder_throughput``; writes
``presharder-throughput-<date>.json`` and ``.md`` beside this file. Everything
shares the machine's cores with the S3 server, and the machine's speed drifts, so only the ratios
within one round say something.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.presharder import big_llama
from benchmarks.presharder_baselines import COPIES, plain_way, plain_way_to_s3
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.options import Credentials, StoreOptions
from tests.builders.checkpoint import llama_shapes, write_checkpoint
from tests.s3server import S3Server

RANKS = 8
"""As many as a common node has GPUs."""
Round = dict[str, float]
"""Seconds of each contender, measured one right after the other."""


class Bench:
    """The contenders: each does the same work into a place of its own, removed afterwards.

    Args:
        checkpoint: folder of the checkpoint.
        folder: scratch space.
        server: an S3 server on this machine.
    """

    def __init__(self, checkpoint: Path, folder: Path, server: S3Server) -> None:
        self._checkpoint = checkpoint
        self._folder = folder
        self._server = server
        self._buckets = 0

    def to_files(self) -> Round:
        """From a folder to a folder."""
        ours, plain = self._folder / "ours", self._folder / "plain"
        plain.mkdir()
        measured = {
            "presharder": _seconds(lambda: self._shard(ours.as_uri())),
            "plain": _seconds(lambda: list(plain_way(self._checkpoint, RANKS, plain))),
        }
        shutil.rmtree(ours)
        shutil.rmtree(plain)
        return measured

    def to_s3(self) -> Round:
        """From a folder to S3; the copies take files that hold the layout's very bytes."""
        layout = self._folder / "layout"
        self._shard(layout.as_uri())
        files = sorted(layout.rglob("*.safetensors"))
        measured = {"presharder": self._in_bucket(lambda b: self._shard(f"s3://{b}"))}
        for name, copy in COPIES.items():
            measured[f"copy with {name}"] = self._in_bucket(
                lambda b, copy=copy: copy(self._server, files, b)  # type: ignore[misc]
            )
        measured["plain"] = self._in_bucket(
            lambda b: plain_way_to_s3(self._server, self._checkpoint, RANKS, b, self._folder)
        )
        shutil.rmtree(layout)
        return measured

    def _shard(self, storage: str) -> None:
        credentials = Credentials(self._server.access_key, self._server.secret_key)
        options = StoreOptions(self._server.endpoint_url, credentials=credentials)
        request = ShardRequest(self._checkpoint.as_uri(), storage, Parallelism(RANKS))
        ShardJob(request, open_store, lambda uri: open_store(uri, options)).run()

    def _in_bucket(self, action: Callable[[str], None]) -> float:
        self._buckets += 1
        bucket = f"bench-{self._buckets}"
        with closing(self._server.client()) as client:
            client.create_bucket(Bucket=bucket)
        return _seconds(lambda: action(bucket))


def _seconds(action: Callable[[], object]) -> float:
    os.sync()  # what the contender before has left in the page cache is not this one's burden
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def summarise(rounds: list[Round], size: int) -> dict[str, Any]:
    """Median and spread of each contender, and of its ratio to the pre-sharder in each round."""
    contenders = {}
    for name in rounds[0]:
        seconds = [measured[name] for measured in rounds]
        ratios = [measured[name] / measured["presharder"] for measured in rounds]
        contenders[name] = {
            "seconds": [round(value, 2) for value in seconds],
            "medianSeconds": round(statistics.median(seconds), 2),
            "medianMegabytesPerSecond": round(size / statistics.median(seconds) / 1e6),
            "presharderIsFasterBy": round(statistics.median(ratios), 2),
            "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return contenders


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    machine = record["machine"]
    lines = [
        f"# Pre-sharder throughput, {record['date']}",
        "",
        f"{record['what']}. {machine['cores']} cores, {machine['system']}, files in "
        f"{machine['scratch']}; load average before {machine['loadBefore']}, after "
        f"{machine['loadAfter']}. N = {record['rounds']} rounds; ratios are medians of pairs "
        "within one round, with their range.",
    ]
    for way, contenders in record["results"].items():
        lines += [
            "",
            f"## {way}",
            "",
            "| | seconds | MB/s | how many times faster the pre-sharder is |",
        ]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {name} | {c['medianSeconds']} | {c['medianMegabytesPerSecond']} | "
            f"{c['presharderIsFasterBy']} ({c['spread'][0]} to {c['spread'][1]}) |"
            for name, c in contenders.items()
        ]
    return "\n".join(lines) + "\n"


def one_round(checkpoint: Path, scratch: Path) -> dict[str, Round]:
    """Every contender once, with a server of its own: SeaweedFS frees deleted bytes late."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, S3Server(Path(folder)) as server:
        bench = Bench(checkpoint, scratch, server)
        return {"file to file": bench.to_files(), "file to S3": bench.to_s3()}


def main() -> int:
    """Measure and write the dated files."""
    parser = records.parser("presharder_throughput", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="in which all take turns")
    parser.add_argument(
        "--megabytes", type=int, default=500, help="of the layers; embeddings come on top"
    )
    parser.add_argument(
        "--scratch",
        default="/dev/shm",
        help="where files and the server's data go; default: memory",
    )
    options = parser.parse_args()
    load_before = os.getloadavg()
    rounds: dict[str, list[Round]] = {"file to file": [], "file to S3": []}
    with tempfile.TemporaryDirectory(dir=options.scratch) as temporary:
        checkpoint = Path(temporary) / "model"
        config = big_llama(options.megabytes)
        write_checkpoint(checkpoint, config, llama_shapes(config), dtype="BF16")
        size = (checkpoint / "model.safetensors").stat().st_size
        for number in range(options.rounds + 1):
            for way, measured in one_round(checkpoint, Path(temporary)).items():
                print(way, json.dumps(measured), flush=True)
                if number:  # the first round warms caches and imports
                    rounds[way].append(measured)
    what = f"{size / 1e9:.2f} GB Llama, bfloat16, tensor {RANKS}, SeaweedFS beside it"
    record = records.heading(what) | {
        "machine": records.machine()
        | {
            "scratch": options.scratch,
            "loadBefore": round(load_before[0], 1),
            "loadAfter": round(os.getloadavg()[0], 1),
        },
        "rounds": options.rounds,
        "results": {way: summarise(measured, size) for way, measured in rounds.items()},
    }
    path = records.write(record, options.output, "presharder-throughput")
    path.with_suffix(".md").write_text(table(record))
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
