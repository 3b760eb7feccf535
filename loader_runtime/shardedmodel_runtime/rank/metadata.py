"""The manifest's way to every rank: rank 0 reads it, its store hands it to the others."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable

from shardedmodel_runtime.errors import GroupError
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.rank.store import DistError, Store

CHUNK_BYTES = 1024 * 1024
"""Bytes of one value in the store: torch's store drops the connection on values of some tens of
megabytes, which the manifests of large models are."""
POLL_SECONDS = 0.1
"""Between two looks whether rank 0 has published the manifest."""
_KEY = "manifest"


def broadcast(store: Store, data: bytes) -> None:
    """Publish the manifest's bytes in chunks, and their digest last."""
    starts = range(0, len(data), CHUNK_BYTES)
    for number, start in enumerate(starts):
        store.set(f"{_KEY}/{number}", data[start : start + CHUNK_BYTES])  # type: ignore[arg-type]
    head = {"chunks": len(starts), "sha256": hashlib.sha256(data).hexdigest()}
    store.set(_KEY, json.dumps(head))


def receive(store: Store) -> bytes | None:
    """Take the manifest's bytes from the store; None while they are not there.

    Raises:
        GroupError: they are not what rank 0 published.
    """
    if not store.check([_KEY]):
        return None
    head = json.loads(store.get(_KEY))
    data = b"".join(store.get(f"{_KEY}/{number}") for number in range(head["chunks"]))
    if hashlib.sha256(data).hexdigest() != head["sha256"]:
        raise GroupError("the manifest that rank 0 published arrived with other bytes")
    return data


def await_manifest(connect: Callable[[], Store], timeout_seconds: float) -> Manifest:
    """Wait until rank 0 has published the manifest, and take it.

    Args:
        connect: connects to the store, which may go away and come back meanwhile.
        timeout_seconds: how long to wait.

    Raises:
        GroupError: it did not come in time.
        LayoutError: it is no manifest.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            store = connect()
            while time.monotonic() < deadline:
                data = receive(store)
                if data is not None:
                    return Manifest.parse(data)
                time.sleep(POLL_SECONDS)
        except DistError:
            continue  # rank 0 went away; the next attempt waits until it is back
    raise GroupError(
        f"rank 0 did not publish the layout's manifest within {timeout_seconds:.0f} s; "
        "look at its pod"
    )
