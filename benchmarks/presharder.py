"""Measure the pre-shard Job: peak memory and bytes read, at several sizes, on a real S3 server.

Run with ``make bench``; writes ``presharder-<date>.json`` beside this file. Memory and byte counts
are the point. Seconds are there for scale: server and Job share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.builders_checkpoint import llama_config, llama_shapes, write_checkpoint
from tests.s3server import S3Server

CASES = ((500, 4), (500, 16), (2000, 4), (2000, 16))
"""Megabytes and ranks: four times the bytes and four times the ranks must not take more memory."""
LAYER_MEGABYTES = 50
"""Bytes of one layer of the synthetic Llama below, so that layers give the size."""


def big_llama(megabytes: int) -> dict[str, Any]:
    """``config.json`` of a Llama of about ``megabytes`` in bfloat16, 16 key-value heads."""
    return llama_config(
        hidden_size=1536,
        intermediate_size=4096,
        num_attention_heads=16,
        num_key_value_heads=16,
        num_hidden_layers=max(1, megabytes // LAYER_MEGABYTES - 2),
        vocab_size=32000,
    )


def measure(server: S3Server, source: str, tensor: int) -> dict[str, Any]:
    """Run the Job's own command and give its summary back."""
    with tempfile.NamedTemporaryFile() as log:
        command = [sys.executable, "-m", "shardedmodel_runtime", "shard", source]
        command += [f"s3://shards/{tensor}", "--tensor", str(tensor)]
        for side in ("source", "storage"):
            command += [f"--{side}-endpoint-url", server.endpoint_url]
        command += ["--termination-log", log.name]
        subprocess.run(
            command, env=os.environ | server.environment, check=True, stdout=subprocess.DEVNULL
        )
        summary: dict[str, Any] = json.loads(Path(log.name).read_bytes())
    return summary


def results(server: S3Server, folder: Path) -> Iterator[dict[str, Any]]:
    """Each case's figures."""
    uploaded: set[int] = set()
    with closing(server.client()) as client:
        for bucket in ("models", "shards"):
            client.create_bucket(Bucket=bucket)
        for megabytes, tensor in CASES:
            if megabytes not in uploaded:
                config = big_llama(megabytes)
                write_checkpoint(folder / "m", config, llama_shapes(config), dtype="BF16")
                for path in (folder / "m").iterdir():
                    client.upload_file(str(path), "models", f"{megabytes}/{path.name}")
                uploaded.add(megabytes)
            summary = measure(server, f"s3://models/{megabytes}", tensor)
            yield {
                "ranks": tensor,
                "sourceBytes": summary["sourceBytes"],
                "sourceBytesRead": summary["sourceBytesRead"],
                "readRatio": summary["sourceBytesRead"] / summary["sourceBytes"],
                "layoutBytes": summary["bytes"],
                "peakMemoryMiB": round(summary["peakMemoryBytes"] / 2**20, 1),
                "seconds": round(summary["seconds"], 1),
            }


def main() -> int:
    """Measure every case and write the dated file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory() as folder, S3Server() as server:
        for result in results(server, Path(folder)):
            print(json.dumps(result), flush=True)
            measured.append(result)
    now = datetime.now(UTC).date().isoformat()
    record = {
        "what": "pre-shard Job, S3 to S3 (SeaweedFS on the same machine), bfloat16 Llama",
        "date": now,
        "machine": {"cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "runsOfEachCase": 1,
        "results": measured,
    }
    path = options.output / f"presharder-{now}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
