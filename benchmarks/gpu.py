"""Load one rank's shard to a CUDA device, from page cache and from a local S3 server.

Run with ``python -m benchmarks.gpu`` on a machine with a GPU; writes ``gpu-<date>.json`` beside
this file. Beside the loads, in turns with them, a copy of as many bytes out of pinned memory: the
limit of any loader. Then NCCL forms a group of one rank. The weights are zeros.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
import torch.distributed as dist

from benchmarks import records
from benchmarks.presharder import big_llama, write_hollow_checkpoint
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.loading.config import DEFAULT_RANGE_BYTES, Device, ModelLoadConfig
from shardedmodel_runtime.loading.hedging import AT_ONCE
from shardedmodel_runtime.loading.loader import load, open_layout
from shardedmodel_runtime.loading.ring import MAX_WINDOWS
from tests.builders.checkpoint import llama_shapes
from tests.builders.layout import shard
from tests.s3server import S3Server

MEGABYTES = 13_500
"""Of the model in bfloat16: one of 7 billion parameters."""
RANKS = 4
"""Tensor parallel; rank 0's shard is loaded, 3.4 GB."""
ROUNDS = 5
"""Loads from each place: two that are disturbed leave the median where it is."""
GOAL_SECONDS = 0.8
"""For the default's shard of 3.4 GB, set before there was a GPU: 4.2 GB/s, of 5 in 40 Gb/s."""
GOAL_OF_PINNED = 0.8
"""Of the rate of copies out of pinned memory: the rest is for reads that the ring does not hide."""
RING_BYTES = (MAX_WINDOWS + AT_ONCE) * DEFAULT_RANGE_BYTES
"""What a load may take beyond its shard."""
BUCKET = "gpu"
NO_CUDA = 2
"""Exit code where there is nothing to measure on."""


class Accelerator(Protocol):
    """Where shards go; all that needs a GPU is behind it."""

    name: str
    kind: Device
    backend: str

    def forget(self) -> None:
        """Give back memory that nobody holds, and begin to count its peak anew."""
        ...

    def peak_bytes(self) -> int:
        """Most memory that was held at once since ``forget``."""
        ...

    def copy_pinned(self, size: int) -> float:
        """Copy ``size`` bytes out of pinned memory, window by window; gives the seconds."""
        ...

    def bound(self) -> torch.device | None:
        """Which device a process group is bound to."""
        ...


class Cuda:
    """The first CUDA device."""

    kind: Device = "cuda"
    backend = "nccl"

    def __init__(self) -> None:
        self._device = torch.device("cuda", 0)
        self.name = torch.cuda.get_device_name(self._device)

    def forget(self) -> None:
        """Empty torch's caches, so that each load asks the driver for its memory and windows."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.accelerator.empty_host_cache()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        """What torch's allocator counted."""
        return torch.cuda.max_memory_allocated(self._device)

    def copy_pinned(self, size: int) -> float:
        """Copy one window again and again to where a shard would lie."""
        window = torch.empty(DEFAULT_RANGE_BYTES, dtype=torch.uint8, pin_memory=True)
        target = torch.empty(size, dtype=torch.uint8, device=self._device)
        torch.cuda.synchronize(self._device)
        began = perf_counter()
        for start, stop in spans(size):
            target[start:stop].copy_(window[: stop - start], non_blocking=True)
        torch.cuda.synchronize(self._device)
        return perf_counter() - began

    def bound(self) -> torch.device | None:
        """The device itself."""
        return self._device


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one round, and the most device memory of each load by where it came from."""

    pinned: float
    loads: Mapping[str, float]
    peaks: Mapping[str, int]


def spans(size: int) -> list[tuple[int, int]]:
    """Cut ``size`` bytes into windows."""
    starts = range(0, size, DEFAULT_RANGE_BYTES)
    return [(start, min(start + DEFAULT_RANGE_BYTES, size)) for start in starts]


def put_rank(server: S3Server, layout: str) -> str:
    """Put the manifest and rank 0's objects behind the server; gives the layout's URI there."""
    folder = Path(layout.removeprefix("file://"))
    with closing(server.client()) as client:
        client.create_bucket(Bucket=BUCKET)
        for key in ("manifest.json", *(item.key for item in _manifest(layout).objects_of(0))):
            client.upload_file(str(folder / key), BUCKET, f"{folder.name}/{key}")
    return f"s3://{BUCKET}/{folder.name}"


def _manifest(layout: str) -> Manifest:
    with open_layout(ModelLoadConfig(layout=layout)) as store:
        return read_manifest(store)


def configs(layout: str, server: S3Server, kind: Device) -> dict[str, ModelLoadConfig]:
    """Give the load from each place, by its name."""
    common: dict[str, Any] = {"world_size": RANKS, "rank": 0, "device": kind}
    remote = put_rank(server, layout)
    return {
        "page cache": ModelLoadConfig(layout=layout, **common),
        "SeaweedFS": ModelLoadConfig(layout=remote, endpoint_url=server.endpoint_url, **common),
    }


def measure(
    accelerator: Accelerator, loads: Mapping[str, ModelLoadConfig], rounds: int
) -> tuple[int, list[Round]]:
    """Take turns; one round more comes before, for files to reach the page cache.

    Returns:
        Bytes of the shard, and what each round took.
    """
    size = load(loads["page cache"]).report.bytes
    measured = [_round(accelerator, loads, size) for _ in range(rounds + 1)]
    return size, measured[1:]


def _round(accelerator: Accelerator, loads: Mapping[str, ModelLoadConfig], size: int) -> Round:
    accelerator.forget()
    pinned = accelerator.copy_pinned(size)
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    for name, config in loads.items():
        accelerator.forget()
        seconds[name] = load(config).report.seconds
        peaks[name] = accelerator.peak_bytes()
    return Round(pinned, seconds, peaks)


def form_group(accelerator: Accelerator) -> float:
    """Form a group of one rank and pass a barrier in it; gives the seconds."""
    began = perf_counter()
    dist.init_process_group(
        accelerator.backend,
        store=dist.HashStore(),  # type: ignore[attr-defined]
        rank=0,
        world_size=1,
        device_id=accelerator.bound(),
    )
    try:
        dist.barrier()
        return perf_counter() - began
    finally:
        dist.destroy_process_group()


def summarize(size: int, rounds: Sequence[Round]) -> dict[str, Any]:
    """Give the figures of a shard of ``size`` bytes, ratios by pairs within a round."""
    return {
        "shardBytes": size,
        "pinnedGigabytesPerSecond": records.spread(size / each.pinned / 1e9 for each in rounds),
        "loads": {name: _figures(name, size, rounds) for name in rounds[0].loads},
    }


def _figures(name: str, size: int, rounds: Sequence[Round]) -> dict[str, Any]:
    seconds = records.spread(each.loads[name] for each in rounds)
    of_pinned = records.spread(each.pinned / each.loads[name] for each in rounds)
    peak = max(each.peaks[name] for each in rounds)
    return {
        "seconds": seconds,
        "gigabytesPerSecond": records.spread(size / each.loads[name] / 1e9 for each in rounds),
        "ofPinned": of_pinned,
        "peakDeviceBytes": peak,
        "reached": {
            "seconds": seconds["median"] <= GOAL_SECONDS,
            "ofPinned": of_pinned["median"] >= GOAL_OF_PINNED,
            "deviceMemory": peak <= size + RING_BYTES,
        },
    }


def run(accelerator: Accelerator, megabytes: int, rounds: int) -> dict[str, Any]:
    """Make a model, measure its rank 0, and give the record."""
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as name, S3Server() as server:
        os.environ |= server.environment
        folder, config = Path(name), big_llama(megabytes)
        write_hollow_checkpoint(folder / "model", config, llama_shapes(config))
        layout = shard((folder / "model").as_uri(), (folder / "layouts").as_uri(), RANKS)[2]
        measured = measure(accelerator, configs(layout, server, accelerator.kind), rounds)
    return records.heading("rank 0 of 4 of a bfloat16 Llama to a device") | {
        "device": accelerator.name,
        "megabytes": megabytes,
        "rounds": rounds,
        **summarize(*measured),
        "groupOfOneSeconds": round(form_group(accelerator), 3),
        "goals": {"seconds": GOAL_SECONDS, "ofPinned": GOAL_OF_PINNED, "ringBytes": RING_BYTES},
        "loadAverage": {"before": load_before, "after": os.getloadavg()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the dated file; gives the exit code."""
    parser = records.parser("gpu", __doc__)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="of the whole model")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="loads from each place")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            "benchmarks.gpu: torch finds no CUDA device; run it on a machine with a GPU and a "
            "build of torch for CUDA",
            file=sys.stderr,
        )
        return NO_CUDA
    print(records.write(run(Cuda(), options.megabytes, options.rounds), options.output, "gpu"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
