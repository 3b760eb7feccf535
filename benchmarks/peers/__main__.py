"""Run one loader for each line of JSON, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.peers import files, ours, s3, sockets
from benchmarks.peers.task import Load, Task
from shardedmodel_runtime.memory import peak_memory_bytes

LIMIT_SECONDS = 90
"""Of one load; a loader that takes longer hangs: the slowest load of all records took 4 s."""

LOADERS: dict[str, Callable[[Task], Load]] = {
    "ours": ours.ours,
    "ours, unverified": ours.ours_unverified,
    "ours, held memory": ours.ours_again,
    "runai-model-streamer": s3.runai,
    "s3torchconnector": s3.s3torchconnector,
    "boto3": s3.boto3,
    "obstore": s3.obstore,
    "raw": sockets.raw,
    "raw, new memory": sockets.raw_fresh,
    "preadv": files.raw_file,
    "preadv, new memory": files.raw_file_fresh,
    "safetensors": files.safetensors,
    "fastsafetensors": files.fastsafetensors,
}


def measure(name: str, task: Task) -> dict[str, Any]:
    """Load once."""
    load = LOADERS[name](task)
    before = peak_memory_bytes()
    began = time.perf_counter()
    held = load()
    seconds = time.perf_counter() - began
    del held
    return {"seconds": seconds, "peakMemoryBytes": peak_memory_bytes(), "before": before}


def serve() -> None:
    """Measure what each line asks for, and answer with a line."""
    import shardedmodel_runtime.loading.loader
    import shardedmodel_runtime.storage.s3  # noqa: F401 - for all the processes to come

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_SECONDS)
            print(json.dumps(_answer(**json.loads(line))), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"error": f"ended with status {status}"}), flush=True)


def _answer(name: str, task: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    os.environ.update(environment)
    try:
        return measure(name, Task(**task))
    except Exception as error:  # noqa: BLE001 - a peer's failure is a result
        return {"error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    serve()
