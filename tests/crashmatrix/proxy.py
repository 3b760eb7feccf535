"""A reverse proxy with somebody in between who may hold a request, or cut its connection."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import aiohttp
from aiohttp import web
from yarl import URL

from tests.crashmatrix.calls import Call

Result = TypeVar("Result")

BODY_BYTES = 64 * 1024 * 1024
"""Largest request: a part of an upload is 16 MiB."""
CONNECT_SECONDS = 5.0
"""A server on this machine answers at once or is down."""
HOP_HEADERS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
)
"""Headers of one connection alone (RFC 9110, 7.6.1), and those that each side sets for itself."""
OWN_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What aiohttp would add where the client sent none."""


class Cut(Exception):
    """The connection is to end without an answer."""


class Between(Protocol):
    """What is asked about each request."""

    async def ask(self, call: Call) -> None:
        """Before a request goes on.

        Raises:
            Cut: it does not.
        """

    async def answer(self, call: Call, status: int) -> None:
        """After the whole answer has come, before it is handed on.

        Raises:
            Cut: it is not.
        """


class Loop:
    """An event loop in a thread, for all proxies of a process."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run in the loop, and wait for the result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class Proxy:
    """Forwards HTTP from an address of this host to a server.

    The Host header, which S3's signatures cover, is forwarded as it came. A server that cannot be
    reached shows as a connection that ends.

    Args:
        loop: where it runs.
        upstream: the server's URL.
        between: who is asked.
        trusts: the authority that signed the server's certificate; None for plain HTTP.
        host: address to listen on.
    """

    def __init__(
        self,
        loop: Loop,
        upstream: str,
        between: Between,
        trusts: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._loop = loop
        self._upstream = upstream.rstrip("/")
        self._between = between
        self._tls = ssl.create_default_context(cadata=trusts) if trusts else False
        self._host = host
        self._runner: web.AppRunner
        self._session: aiohttp.ClientSession
        self.port = 0
        """Where it listens."""

    def __enter__(self) -> Self:
        self._loop.run(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.run(self._stop())

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
            skip_auto_headers=OWN_HEADERS,
        )
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        # A watch whose client has gone must not go on.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, "watch" in request.query)
        try:
            await self._between.ask(call)
            return await self._forward(request, call)
        except (Cut, aiohttp.ClientError, OSError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
            # Nobody hears it; the server wants something to have been answered.
            return web.Response(status=502)

    async def _forward(self, request: web.Request, call: Call) -> web.StreamResponse:
        async with self._session.request(
            request.method,
            URL(self._upstream + request.raw_path, encoded=True),
            headers=_end_to_end(request.headers.items()),
            data=await request.read() or None,
            allow_redirects=False,
        ) as answer:
            headers = _end_to_end(answer.headers.items())
            if call.watches:
                return await _stream(request, answer, headers)
            body = await answer.read()
            await self._between.answer(call, answer.status)
            if request.method == "HEAD":
                headers.append(("Content-Length", answer.headers.get("Content-Length", "0")))
            response = web.Response(status=answer.status, body=body)
            response.headers.update(headers)
            return response


async def _stream(
    request: web.Request, answer: aiohttp.ClientResponse, headers: list[tuple[str, str]]
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    async for piece in answer.content.iter_any():
        await response.write(piece)
    return response


def _end_to_end(headers: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP_HEADERS]
