"""Measure the pre-shard Job: peak memory and bytes read, at several sizes, into a real S3 server.

Run with ``make bench-presharder``; writes ``presharder-<date>.json`` beside this file. Memory and
byte counts are the point. Seconds are there for scale: server and Job share the machine's cores.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import records
from shardedmodel_runtime.formats.safetensors import build_header
from tests.builders.checkpoint import llama_config, llama_shapes
from tests.s3server import S3Server

CASES = ((500, 8), (500, 64), (2000, 8), (2000, 64), (8000, 8), (8000, 64))
"""Megabytes and ranks: sixteen times the bytes, eight times the ranks, within one budget."""
LAYER_MEGABYTES = 50
"""Bytes of one layer of the synthetic Llama below, so that layers give the size."""


def big_llama(megabytes: int) -> dict[str, Any]:
    """``config.json`` of a Llama of about ``megabytes`` in bfloat16, 64 heads."""
    return llama_config(
        hidden_size=1536,
        intermediate_size=4096,
        num_attention_heads=64,
        num_key_value_heads=64,
        num_hidden_layers=max(1, megabytes // LAYER_MEGABYTES - 2),
        vocab_size=32000,
    )


def write_hollow_checkpoint(
    folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Write a checkpoint in bfloat16 whose weights are zeros that take no room on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header = build_header((name, "BF16", shape) for name, shape in shapes.items())
    data = sum(2 * math.prod(shape) for shape in shapes.values())
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + data)


def measure(server: S3Server, source: str, bucket: str, tensor: int) -> dict[str, Any]:
    """Run the Job's own command and give its summary back."""
    with tempfile.NamedTemporaryFile() as log:
        command = [sys.executable, "-m", "shardedmodel_runtime", "shard", source]
        command += [f"s3://{bucket}", "--tensor", str(tensor)]
        command += ["--storage-endpoint-url", server.endpoint_url]
        command += ["--termination-log", log.name]
        subprocess.run(
            command, env=os.environ | server.environment, check=True, stdout=subprocess.DEVNULL
        )
        summary: dict[str, Any] = json.loads(Path(log.name).read_bytes())
    return summary


def results(folder: Path, cases: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Each case's figures, with a server of its own, so that disks do not fill."""
    for megabytes, tensor in cases:
        source = folder / str(megabytes)
        if not source.exists():
            config = big_llama(megabytes)
            write_hollow_checkpoint(source, config, llama_shapes(config))
        with S3Server() as server:
            with closing(server.client()) as client:
                client.create_bucket(Bucket="shards")
            summary = measure(server, source.as_uri(), "shards", tensor)
        yield {
            "ranks": tensor,
            "sourceBytes": summary["sourceBytes"],
            "sourceBytesRead": summary["sourceBytesRead"],
            "readRatio": summary["sourceBytesRead"] / summary["sourceBytes"],
            "layoutBytes": summary["bytes"],
            "objects": summary["objects"],
            "peakMemoryMiB": round(summary["peakMemoryBytes"] / 2**20, 1),
            "seconds": round(summary["seconds"], 1),
        }


def _cases(text: str) -> list[tuple[int, int]]:
    pairs = (case.split(":") for case in text.split(","))
    return [(int(megabytes), int(ranks)) for megabytes, ranks in pairs]


def main() -> int:
    """Measure every case and write the dated file."""
    parser = records.parser("presharder", __doc__)
    parser.add_argument(
        "--cases", type=_cases, default=CASES, metavar="MB:RANKS,…", help="measure these alone"
    )
    options = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for result in results(Path(folder), options.cases):
            print(json.dumps(result), flush=True)
            measured.append(result)
    what = "pre-shard Job, file to S3 (SeaweedFS on the same machine), bfloat16 Llama"
    record = records.heading(what) | {"runsOfEachCase": 1, "results": measured}
    print(records.write(record, options.output, "presharder"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
