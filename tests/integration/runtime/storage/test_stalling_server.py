"""Reads that wait for a server are ended from another thread, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from shardedmodel_runtime.errors import SourceChanged, Unavailable
from shardedmodel_runtime.storage.options import Credentials, StoreOptions
from shardedmodel_runtime.storage.reading import Cancelled, Reading
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.s3 import S3Store
from shardedmodel_runtime.storage.uri import parse_uri

pytestmark = pytest.mark.integration

MIB = 2**20
SIZE = 3 * MIB
HEAD = (
    b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n"
    b'ETag: "%s"\r\n\r\n'
)


class Server:
    """Answers one ranged GET after another, each as its script says, on one connection each.

    A script is the ETag, and how many bytes of the body are sent before it stalls; None: all.
    """

    def __init__(self, *scripts: tuple[bytes, int | None]) -> None:
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.starts: list[int] = []
        self.stalled = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for connection in [*self._connections, self._listener]:
            connection.close()

    def _serve(self) -> None:
        with suppress(OSError):  # a client that gave up, or the end of the test
            for etag, sent in self._scripts:
                self._answer(self._listener.accept()[0], etag, sent)

    def _answer(self, connection: socket.socket, etag: bytes, sent: int | None) -> None:
        self._connections.append(connection)
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536)
        first = int(request.split(b"bytes=")[1].split(b"-")[0])
        self.starts.append(first)
        count = SIZE - first
        connection.sendall(HEAD % (count, first, SIZE - 1, SIZE, etag))
        if sent is None:
            connection.sendall(bytes(count))
            connection.shutdown(socket.SHUT_WR)
        else:
            connection.sendall(bytes(sent))
            self.stalled.set()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        server.close()


def open_store(server: Server, attempts: int = 3, read_timeout_seconds: float = 30) -> S3Store:
    options = StoreOptions(server.endpoint_url, credentials=Credentials("key", "secret"))
    retry = RetryPolicy(attempts=attempts, base_seconds=0.01)
    return S3Store(parse_uri("s3://bucket"), options, retry, read_timeout_seconds)


def test_a_read_that_stalls_in_its_body_ends_when_it_is_told_to(servers: list[Server]) -> None:
    servers.append(server := Server((b"e", 10)))
    reading = Reading()
    with open_store(server) as store, ThreadPoolExecutor(1) as pool:
        into = memoryview(bytearray(SIZE))
        read = pool.submit(store.read_range, "key", 0, into, reading=reading)
        assert server.stalled.wait(30)
        reading.cancel()
        with pytest.raises(Cancelled):
            read.result(10)


def test_a_read_that_stalls_too_long_goes_on_behind_what_came(servers: list[Server]) -> None:
    servers.append(server := Server((b"e", 2 * MIB + 10), (b"e", None)))
    with open_store(server, read_timeout_seconds=0.5) as store:
        store.read_range("key", 0, memoryview(bytearray(SIZE)))
        assert (store.retries, store.bytes_read) == (1, SIZE)
    assert server.starts == [0, 2 * MIB]


def test_a_server_that_always_stalls_is_unavailable(servers: list[Server]) -> None:
    servers.append(server := Server((b"e", 0), (b"e", 0)))
    with (
        open_store(server, attempts=2, read_timeout_seconds=0.2) as store,
        pytest.raises(Unavailable, match=r"broke off.*after 2 attempts"),
    ):
        store.read_range("key", 0, memoryview(bytearray(SIZE)))


def test_an_object_that_changes_behind_a_broken_answer_is_noticed(servers: list[Server]) -> None:
    servers.append(server := Server((b"e", 10), (b"other", None)))
    with open_store(server, read_timeout_seconds=0.3) as store, pytest.raises(SourceChanged):
        store.read_range("key", 0, memoryview(bytearray(SIZE)), digest="etag:e")
