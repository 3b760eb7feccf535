"""Relays between a client and a server on loopback: one that speaks TLS, and a forward proxy."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from math import inf
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

PIECE_BYTES = 64 * 1024
"""Relayed at a time."""

Address = tuple[str, int]


class Relay:
    """Relays connections, byte for byte, in a thread of its own.

    Args:
        target: where to; None: where each client says, as of a forward proxy (CONNECT, or the
            whole URL of a first request, which servers take as it is).
        tls: what the relay shows to clients; None: it speaks plainly.
        most_bytes: after as many of a connection's client it relays nothing more of that client,
            and leaves the connection open: small requests pass, large ones hang.
    """

    def __init__(
        self,
        target: Address | None = None,
        tls: ssl.SSLContext | None = None,
        most_bytes: float = inf,
    ) -> None:
        self._target = target
        self._tls = tls
        self._most_bytes = most_bytes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self.targets: list[Address] = []
        """Where each connection was relayed to."""

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
            target, begun = (
                (self._target, b"") if self._target else await _asked_for(reader, writer)
            )
            self.targets.append(target)
            other_reader, other_writer = await asyncio.open_connection(*target)
            with contextlib.closing(other_writer):
                other_writer.write(begun)
                await asyncio.gather(
                    _pump(reader, other_writer, self._most_bytes), _pump(other_reader, writer)
                )


async def _asked_for(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[Address, bytes]:
    """Read what a proxy's client asks for, and agree.

    Returns:
        The server, and what it has to be sent first: nothing after CONNECT (RFC 9110), else the
        request's head with its absolute URL (RFC 9112, 3.2.2).
    """
    head = await reader.readuntil(b"\r\n\r\n")
    method, asked = head.decode().split(" ")[:2]
    if method == "CONNECT":
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        host, _, port = asked.rpartition(":")
        return (host, int(port)), b""
    url = urlsplit(asked)
    assert url.scheme == "http", head
    return (str(url.hostname), int(url.port or 80)), head


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most_bytes: float = inf
) -> None:
    relayed = 0
    while data := await reader.read(PIECE_BYTES):
        relayed += len(data)
        if relayed > most_bytes:
            await asyncio.Event().wait()
        writer.write(data)
        await writer.drain()
    writer.close()
