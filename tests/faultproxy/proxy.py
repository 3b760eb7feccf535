"""The proxy's sockets: one thread and one connection to the server for each of a client's."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import urlsplit

from tests.faultproxy.faults import Case, Delivery, End, Kind, befalls, deliver, intact
from tests.faultproxy.messages import Head, Request, Response
from tests.faultproxy.schedule import Plan
from tests.faultproxy.throttle import TokenBucket

STALL_SECONDS = 30.0
"""How long a stalled connection is kept: longer than any client of the tests waits."""
SERVER_SECONDS = 30.0
"""Patience with the real server."""
PIECE_BYTES = 64 * 1024
"""Sent at a time where a connection is throttled."""
_RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER`` that makes closing a connection reset it (socket(7))."""


class Proxy:
    """Forwards reads to an S3 server, byte for byte, and injects faults into its answers.

    The Host header, which signatures cover, is forwarded as it came.

    Args:
        upstream: the server's URL.
        plan: what is injected; may be replaced at any time by ``use``.
        other_manifest: what ``Kind.OTHER_MANIFEST`` answers.
        bytes_per_second: of each connection; 0: no limit.
        port: to listen on; 0: one that the system chooses.
    """

    def __init__(
        self,
        upstream: str,
        plan: Plan = Plan(),  # noqa: B008 - immutable
        *,
        other_manifest: bytes = b"",
        bytes_per_second: float = 0.0,
        port: int = 0,
    ) -> None:
        server = urlsplit(upstream)
        self._server = (str(server.hostname), int(server.port or 80))
        self._other_manifest = other_manifest
        self._rate = bytes_per_second
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._released = threading.Event()
        self._held_suffix = ""
        self._open: set[socket.socket] = set()
        self.held = 0
        """Answers that were kept back."""
        self.use(plan)

    @property
    def endpoint_url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def use(self, plan: Plan) -> None:
        """Follow another plan, and count anew: faults, and requests and bytes of each path."""
        with self._lock:
            self.plan = plan
            self.injected: Counter[Kind] = Counter()
            self.asked: Counter[str] = Counter()
            self.sent: Counter[str] = Counter()
            self._seen: Counter[str] = Counter()

    def hold(self, suffix: str) -> None:
        """Keep answers back whose paths end so, until ``release``."""
        self._released.clear()
        self.held = 0
        self._held_suffix = suffix

    def release(self) -> None:
        """Let the answers go that were kept back."""
        self._held_suffix = ""
        self._released.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="faultproxy", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        bucket = TokenBucket(self._rate, PIECE_BYTES, at=time.monotonic()) if self._rate else None
        try:
            with (
                client,
                socket.create_connection(self._server, SERVER_SECONDS) as server,
                client.makefile("rb") as requests,
                server.makefile("rb") as answers,
            ):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self._answer(client, requests, server, answers, bucket):
                    pass
        except OSError:
            pass  # the client went away, or the proxy was stopped
        finally:
            with self._lock:
                self._open.discard(client)

    def _answer(
        self,
        client: socket.socket,
        requests: BinaryIO,
        server: socket.socket,
        answers: BinaryIO,
        bucket: TokenBucket | None,
    ) -> bool:
        """Answer one request; False when the connection is at its end."""
        head = Head.read(requests)
        if head is None:
            return False
        request = Request(head)
        server.sendall(head.to_bytes())
        delivery = self._delivery(request, Response.read(answers, request.method))
        if self._held_suffix and request.path.endswith(self._held_suffix):
            self.held += 1
            self._released.wait()
        _send(client, delivery.data, bucket)
        if delivery.end is End.STALL:
            self._stopping.wait(STALL_SECONDS)
        elif delivery.end is End.RESET:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return delivery.end is End.KEEP

    def _delivery(self, request: Request, response: Response) -> Delivery:
        with self._lock:
            plan = self.plan
            occurrence = self._seen[request.identity]
            self._seen[request.identity] += 1
            self.asked[request.path] += 1
            self.sent[request.path] += len(response.body)
            kind = plan.fault(request, occurrence)
            if kind is None or not befalls(kind, request, response):
                return intact(response)
            self.injected[kind] += 1
        chance = plan.chance(request, occurrence)
        return deliver(kind, Case(request, response, chance, self._other_manifest))


def _send(client: socket.socket, data: bytes, bucket: TokenBucket | None) -> None:
    if bucket is None:
        client.sendall(data)
        return
    view = memoryview(data)
    while view:
        piece, view = view[:PIECE_BYTES], view[PIECE_BYTES:]
        time.sleep(bucket.wait_seconds(len(piece), time.monotonic()))
        client.sendall(piece)
