"""What grows with ranks: bytes that a rank moves, and the rate of a group on slow connections.

Run with ``make bench-loader``; writes ``scaling-<date>.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any, Self

from benchmarks import records
from benchmarks.presharder import big_llama
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import load
from tests.builders.checkpoint import llama_shapes, write_checkpoint
from tests.builders.layout import shard
from tests.faultproxy.proxy import Proxy
from tests.s3server import S3Server

RANKS = (1, 2, 4, 8)
"""At once; the first is what the others are multiples of."""
MEGABYTES = 200
"""Of the model that eight ranks share: 25 MB each, some seconds at the rate below."""
BYTES_PER_SECOND = 3e6
"""Of each connection: eight ranks with two each take 48 MB/s, little beside what two cores give."""
CONNECTIONS = 2
"""Of each rank: more than one, as a load has them, and few, so that each is slow."""
ROUNDS = 3
"""Few, because a throttled rate hardly varies; one that is disturbed leaves the median."""


def count_bytes(source: str, folder: Path) -> dict[str, Any]:
    """Load four ranks, and compare what each reads with the whole checkpoint."""
    summary, _, layout = shard(source, folder.as_uri(), 4)
    read = [
        load(
            ModelLoadConfig(layout=layout, world_size=4, rank=rank, device="cpu")
        ).report.bytes_read
        for rank in range(4)
    ]
    return {
        "checkpointBytes": summary.source_bytes,
        "rankBytesRead": read,
        "largestShare": max(read) / summary.source_bytes,
    }


def measure_scaling(server: S3Server, folder: Path) -> dict[str, Any]:
    """Load by 1 to 8 ranks at once, each connection kept at one rate by the proxy."""
    layout = _upload(server, folder)
    rates: dict[int, list[float]] = {ranks: [] for ranks in RANKS}
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.endpoint_url, bytes_per_second=BYTES_PER_SECOND))
        processes = [
            stack.enter_context(_RankProcess(layout, proxy.endpoint_url, server, rank))
            for rank in range(max(RANKS))
        ]
        for process in processes:
            process.wait_up()
        for _ in range(ROUNDS):
            for ranks in RANKS:
                rates[ranks].append(_load_together(processes[:ranks]))
    one = median(rates[1])
    return {
        "bytesPerSecondOfAConnection": BYTES_PER_SECOND,
        "connectionsOfARank": CONNECTIONS,
        "runs": ROUNDS,
        "bytesPerSecond": {ranks: median(measured) for ranks, measured in rates.items()},
        "efficiency": {ranks: median(rates[ranks]) / (ranks * one) for ranks in RANKS},
    }


def _upload(server: S3Server, folder: Path) -> str:
    config = big_llama(MEGABYTES)
    write_checkpoint(folder / "model", config, llama_shapes(config), dtype="BF16")
    uri = shard((folder / "model").as_uri(), (folder / "shards").as_uri(), 8)[2]
    path = Path(uri.removeprefix("file://"))
    with closing(server.client()) as client:
        client.create_bucket(Bucket="eight")
        for file in (file for file in path.rglob("*") if file.is_file()):
            client.upload_file(str(file), "eight", f"{path.name}/{file.relative_to(path)}")
    return f"s3://eight/{path.name}"


class _RankProcess:
    """A rank that loads each time that it is told to."""

    def __init__(self, layout: str, endpoint_url: str, server: S3Server, rank: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling", *_of_rank(layout, endpoint_url, rank)],
            env=os.environ | server.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.close()
        self._answers.close()
        self._process.wait()

    def wait_up(self) -> None:
        """Wait until everything is imported."""
        self._answers.readline()

    def begin(self) -> None:
        """Let it load."""
        self._commands.write("load\n")
        self._commands.flush()

    def report(self) -> dict[str, float]:
        """Wait for its figures."""
        figures: dict[str, float] = json.loads(self._answers.readline())
        return figures


def _load_together(processes: list[_RankProcess]) -> float:
    """Give the bytes per second of all together, by the slowest."""
    for process in processes:
        process.begin()
    reports = [process.report() for process in processes]
    return sum(r["bytes"] for r in reports) / max(r["seconds"] for r in reports)


def _of_rank(layout: str, endpoint_url: str, rank: int) -> list[str]:
    return ["--rank-of", layout, endpoint_url, str(rank)]


def _rank(layout: str, endpoint_url: str, rank: int) -> None:
    config = ModelLoadConfig(
        layout=layout,
        endpoint_url=endpoint_url,
        world_size=max(RANKS),
        rank=rank,
        device="cpu",
        concurrency=CONNECTIONS,
    )
    print("up", flush=True)
    for _ in sys.stdin:
        report = load(config).report
        print(json.dumps({"seconds": report.seconds, "bytes": report.bytes}), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = records.parser("scaling", __doc__)
    # A process of this benchmark's own: the layout, the proxy's address, the rank.
    parser.add_argument("--rank-of", nargs=3, help=argparse.SUPPRESS)
    return parser


def main(output: Path) -> None:
    """Measure both, and write the dated file."""
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as name, S3Server() as server:
        folder = Path(name)
        scaling = measure_scaling(server, folder)
        four = count_bytes((folder / "model").as_uri(), folder / "four")
    what = "bytes of a rank, and the rate of a group whose connections are throttled"
    record = records.heading(what) | {
        "tensorParallel4": four,
        "scaling": scaling,
        "loadAverage": {"before": load_before, "after": os.getloadavg()},
    }
    print(records.write(record, output, "scaling"))


if __name__ == "__main__":
    options = _parser().parse_args()
    if options.rank_of is None:
        main(options.output)
    else:
        layout, endpoint_url, rank = options.rank_of
        _rank(layout, endpoint_url, int(rank))
