"""The group's store: torch's TCPStore, hosted by rank 0, reached with patience but never for long.

A TCPStore's calls block in C++ and cannot be interrupted, and its constructor waits longer than
its timeout and logs a page for each attempt. So whether anybody listens is found out with a plain
socket first. Its timeout covers waiting for keys alone: an answer that never comes, from a process
that is stopped or a machine that vanished, is waited for until TCP gives up, a quarter of an hour.
So the kernel is told to end reads and writes of its connection after ``CALL_TIMEOUT``.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from torch.distributed import (  # type: ignore[attr-defined]
    DistError,
    PrefixStore,
    Store,
    TCPStore,
)

from shardedmodel_runtime.errors import GroupError, excerpt

__all__ = [
    "Address",
    "Connection",
    "DistError",
    "PrefixStore",
    "Store",
    "TCPStore",
    "connect",
    "host",
    "reach",
]

CALL_TIMEOUT = timedelta(seconds=5)
"""Of one call, and of each answer within it: the store answers from memory, so this covers a busy
node and little more."""
PROBE_TIMEOUT_SECONDS = 1.0
"""Of one look whether somebody listens."""
PROBE_PAUSE_SECONDS = 0.2
"""Between two looks: short beside what the slowest peer takes to start."""
LOOPBACK = "127.0.0.1"
"""How rank 0 reaches its own store: its name in DNS may appear later than it does."""

Address = tuple[str, int]

_opening = threading.Lock()
"""Held while a client is made, so that the connection that appears is known to be its own."""


def host(port: int) -> Store:
    """Serve the store on all addresses, for as long as the object lives.

    Raises:
        GroupError: the port is in use.
    """
    try:
        return TCPStore(LOOPBACK, port, None, True, CALL_TIMEOUT, wait_for_workers=False)
    except DistError as error:
        raise GroupError(
            f"MASTER_PORT: cannot serve the group's store on port {port}: {excerpt(str(error))}; "
            "name one that is free, the same for all ranks"
        ) from error


@dataclass(frozen=True, slots=True)
class Connection:
    """A client of the store, and its connection, which another thread may end."""

    store: Store
    sockets: list[socket.socket]

    def end(self) -> None:
        """End its calls, the one under way too: torch's calls cannot be interrupted otherwise."""
        _shut_down(self.sockets)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up the means to end it; the client goes on."""
        for connection in self.sockets:
            connection.close()


def connect(address: Address, timeout_seconds: float, stopping: threading.Event) -> Store:
    """Connect to the store as soon as somebody serves it; see ``reach``."""
    with reach(address, timeout_seconds, stopping) as connection:
        return connection.store


def reach(address: Address, timeout_seconds: float, stopping: threading.Event) -> Connection:
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
            return _open(address)
        except (OSError, DistError) as error:
            if time.monotonic() > deadline or stopping.wait(PROBE_PAUSE_SECONDS):
                raise GroupError(
                    f"rank 0 is missing: its store at {address[0]}:{address[1]} could not be "
                    f"reached ({excerpt(str(error))}); look at its pod"
                ) from error


def _open(address: Address) -> Connection:
    """Make a client whose calls end by themselves.

    Raises:
        DistError: the store did not answer in time.
    """
    with _opening:
        before = {connection.getsockname() for connection in _connections(address)}
        with _ending_when_late(address):
            store = TCPStore(*address, None, False, CALL_TIMEOUT, wait_for_workers=False)
        own = [
            connection.dup()
            for connection in _connections(address)
            if connection.getsockname() not in before
        ]
    timeval = struct.pack("ll", int(CALL_TIMEOUT.total_seconds()), 0)  # socket(7)
    for connection in own:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, timeval)
    return Connection(store, own)


@contextmanager
def _ending_when_late(address: Address) -> Iterator[None]:
    """End this process's connections to the store when a block of code takes too long."""
    watchdog = threading.Timer(
        CALL_TIMEOUT.total_seconds(), lambda: _shut_down(_connections(address))
    )
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _shut_down(connections: Iterable[socket.socket]) -> None:
    for connection in connections:
        with suppress(OSError):  # it may have ended meanwhile
            connection.shutdown(socket.SHUT_RDWR)


def _connections(address: Address) -> Iterator[socket.socket]:
    """Give this process's connections to an address; torch does not tell its descriptors."""
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    peers = {(str(place[0]), address[1]) for *_, place in found}
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # closed by another thread meanwhile
        with copy, suppress(OSError):  # one that listens has no peer
            if copy.family in (socket.AF_INET, socket.AF_INET6) and _peer_of(copy) in peers:
                yield copy


def _peer_of(connection: socket.socket) -> Address:
    host, port, *_ = connection.getpeername()
    return str(host).removeprefix("::ffff:"), int(port)  # torch's are of IPv6, for IPv4 too
