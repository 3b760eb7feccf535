"""The S3 server of one lane: pods reach it through a proxy that can hold what a phase waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.builders.checkpoint import llama_config, llama_shapes, random_bits, safetensors_bytes
from tests.crashmatrix.calls import Call
from tests.crashmatrix.proxy import Loop, Proxy
from tests.s3server import S3Server

SOURCE = "models"
"""Bucket of the checkpoint."""
SHARDS = "shards"
"""Bucket of the layouts."""
CHECKPOINT = "llama"
HOLD_POLL_SECONDS = 0.05

Wanted = Callable[[Call], bool]


def _nothing(_: Call) -> bool:
    return False


@dataclass
class Valve:
    """Keeps requests back, before they reach the server, while a phase is to last."""

    held: int = 0
    """Requests that were kept back since ``hold``."""
    _wanted: Wanted = field(default=_nothing)

    def hold(self, wanted: Wanted) -> None:
        """Keep those requests back until ``release``."""
        self.held = 0
        self._wanted = wanted

    def release(self) -> None:
        """Let go what was kept back, and what is to come."""
        self._wanted = _nothing

    async def ask(self, call: Call) -> None:
        """Hold the request while it is wanted."""
        self.held += self._wanted(call)
        while self._wanted(call):
            await asyncio.sleep(HOLD_POLL_SECONDS)

    async def answer(self, call: Call, status: int) -> None:
        """Answers pass."""


@dataclass(frozen=True)
class LaneStore:
    """An S3 server with the smallest checkpoint in it."""

    server: S3Server
    valve: Valve
    port: int
    """Where pods reach it, on the host's address."""

    def empty(self) -> None:
        """Remove all layouts, for the next life."""
        with closing(self.server.client()) as client:
            for key in self._keys(client):
                client.delete_object(Bucket=SHARDS, Key=key)

    def content(self) -> dict[str, int]:
        """Bytes of each object of the layouts; an upload that nobody finished counts as one."""
        with closing(self.server.client()) as client:
            uploads = client.list_multipart_uploads(Bucket=SHARDS).get("Uploads", [])
            unfinished = {f"unfinished {upload['Key']}": 0 for upload in uploads}
            return self._keys(client) | unfinished

    @staticmethod
    def _keys(client: Any) -> dict[str, int]:
        found = client.list_objects_v2(Bucket=SHARDS).get("Contents", [])
        return {each["Key"]: each["Size"] for each in found}


@contextmanager
def lane_store(loop: Loop, host: str, folder: Path) -> Iterator[LaneStore]:
    """Start a server and its proxy on ``host``, and put the checkpoint there."""
    with S3Server(folder) as server:
        with closing(server.client()) as client:
            for bucket in (SOURCE, SHARDS):
                client.create_bucket(Bucket=bucket)
            for name, data in _checkpoint().items():
                client.put_object(Bucket=SOURCE, Key=f"{CHECKPOINT}/{name}", Body=data)
        valve = Valve()
        with Proxy(loop, server.endpoint_url, valve, host=host) as proxy:
            yield LaneStore(server, valve, proxy.port)


def _checkpoint() -> dict[str, bytes]:
    """Half a megabyte of random Llama with four key-value heads: room for four ranks."""
    config = llama_config()
    shapes = llama_shapes(config).items()
    tensors = {name: random_bits("BF16", shape, n) for n, (name, shape) in enumerate(shapes)}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": safetensors_bytes(tensors),
    }
