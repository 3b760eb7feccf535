"""The group's store: torch's TCPStore, hosted by rank 0, reached with patience but never for long.

A TCPStore's calls block in C++ and cannot be interrupted, and its constructor waits longer than
its timeout and logs a page for each attempt. So whether anybody listens is found out with a plain
socket first, and each call gets ``CALL_TIMEOUT``.
"""

from __future__ import annotations

import socket
import threading
import time
from datetime import timedelta

from torch.distributed import (  # type: ignore[attr-defined]
    DistError,
    PrefixStore,
    Store,
    TCPStore,
)

from shardedmodel_runtime.errors import GroupError, excerpt

__all__ = ["Address", "DistError", "PrefixStore", "Store", "connect", "host"]

CALL_TIMEOUT = timedelta(seconds=5)
"""Of one call: the store answers from memory, so this covers a busy node and little more."""
PROBE_TIMEOUT_SECONDS = 1.0
"""Of one look whether somebody listens."""
PROBE_PAUSE_SECONDS = 0.2
"""Between two looks: short beside what the slowest peer takes to start."""
LOOPBACK = "127.0.0.1"
"""How rank 0 reaches its own store: its name in DNS may appear later than it does."""

Address = tuple[str, int]


def host(port: int) -> Store:
    """Serve the store on all addresses, for as long as the object lives.

    Raises:
        GroupError: the port is in use.
    """
    try:
        return TCPStore(LOOPBACK, port, None, True, CALL_TIMEOUT, wait_for_workers=False)
    except DistError as error:
        raise GroupError(
            f"MASTER_PORT: cannot serve the group's store on port {port}: {excerpt(str(error))}"
        ) from error


def connect(address: Address, timeout_seconds: float, stopping: threading.Event) -> Store:
    """Connect to the store as soon as somebody serves it.

    Args:
        address: host and port.
        timeout_seconds: how long to try.
        stopping: ends the attempts when set.

    Raises:
        GroupError: nobody served it in time, or there is no use for it any more.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection(address, PROBE_TIMEOUT_SECONDS).close()
            return TCPStore(*address, None, False, CALL_TIMEOUT, wait_for_workers=False)
        except (OSError, DistError) as error:
            if time.monotonic() > deadline or stopping.wait(PROBE_PAUSE_SECONDS):
                raise GroupError(
                    f"rank 0 is missing: its store at {address[0]}:{address[1]} could not be "
                    f"reached ({excerpt(str(error))}); look at its pod"
                ) from error
