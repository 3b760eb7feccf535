"""The manifest's way to every rank: rank 0 reads it, its store hands it to the others.

Which manifest counts is rank 0's to say, by its SHA-256 in the store. Where rank 0 comes back and
finds another one at the layout's address, ranks that hold weights of the former give them up.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from shardedmodel_runtime.errors import GroupError
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.rank.store import DistError, Store

CHUNK_BYTES = 1024 * 1024
"""Bytes of one value in the store: torch's store drops the connection on values of some tens of
decimal_size, which the manifests of large models are."""
POLL_SECONDS = 0.1
"""Between two looks whether rank 0 has published the manifest, and two attempts to look."""
_KEY = "manifest"
_SHOWN_DIGITS = 12
"""Of a digest in a message: enough to tell two manifests apart."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """The manifest that rank 0 published, and the SHA-256 of its bytes as they were published."""

    manifest: Manifest
    sha256: str


def broadcast(store: Store, data: bytes) -> str:
    """Publish the manifest's bytes in chunks, and their SHA-256 last, which is given back."""
    starts = range(0, len(data), CHUNK_BYTES)
    for number, start in enumerate(starts):
        store.set(f"{_KEY}/{number}", data[start : start + CHUNK_BYTES])  # type: ignore[arg-type]
    sha256 = hashlib.sha256(data).hexdigest()
    store.set(_KEY, json.dumps({"chunks": len(starts), "sha256": sha256}))
    return sha256


def check_agreed(store: Store, rank: int, sha256: str) -> bool:
    """Compare the manifest whose weights a rank holds with the one that rank 0 has published.

    Returns:
        Whether rank 0 has published one yet.

    Raises:
        GroupError: it is another one.
    """
    if not store.check([_KEY]):
        return False
    theirs = json.loads(store.get(_KEY))["sha256"]
    if theirs != sha256:
        raise GroupError(
            f"rank {rank}: holds weights of the manifest with SHA-256 {sha256[:_SHOWN_DIGITS]}…, "
            f"and rank 0 has published {theirs[:_SHOWN_DIGITS]}…: the layout was replaced while "
            "the group ran; start the rank anew, and give each layout an address of its own"
        )
    return True


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


def await_manifest(connect: Callable[[float], Store], timeout_seconds: float) -> Agreed:
    """Wait until rank 0 has published the manifest, and take it.

    Args:
        connect: connects to the store, which may go away and come back meanwhile, within the
            seconds that it is given.
        timeout_seconds: how long to wait.

    Raises:
        GroupError: it did not come in time.
        LayoutError: it is no manifest.
    """
    until = time.monotonic() + timeout_seconds
    while (left := until - time.monotonic()) > 0:
        try:
            store = connect(left)
            while time.monotonic() < until:
                data = receive(store)
                if data is not None:
                    return Agreed(Manifest.parse(data), hashlib.sha256(data).hexdigest())
                time.sleep(POLL_SECONDS)
        except DistError:
            # The store went away. A pod's next attempt waits until it is back; torchrun's store is
            # what it is, and fails at once again.
            time.sleep(POLL_SECONDS)
    raise GroupError(
        f"rank 0 did not publish the layout's manifest within {timeout_seconds:.0f} s; "
        "look at its pod"
    )
