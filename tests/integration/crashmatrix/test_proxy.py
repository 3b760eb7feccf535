from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.crashmatrix.calls import Call
from tests.crashmatrix.proxy import Cut, Loop, Proxy

pytestmark = pytest.mark.integration


class Echo(BaseHTTPRequestHandler):
    """Answers with what came, the query and the Host header included."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = f"{self.path} {self.headers['Host']} ".encode() + self.rfile.read(length)
        self.send_response(201)
        self.send_header("ETag", "abc")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Between:
    """Notes what it is asked, and cuts where it is told to."""

    def __init__(self) -> None:
        self.asked: list[Call] = []
        self.answered: list[int] = []
        self.cuts_asking = False
        self.cuts_answer = False

    async def ask(self, call: Call) -> None:
        self.asked.append(call)
        if self.cuts_asking:
            raise Cut

    async def answer(self, call: Call, status: int) -> None:
        self.answered.append(status)
        if self.cuts_answer:
            raise Cut


@contextmanager
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def between() -> Between:
    return Between()


@pytest.fixture
def connection(between: Between) -> Iterator[http.client.HTTPConnection]:
    with upstream() as server, Loop() as loop, Proxy(loop, server, between) as proxy:
        opened = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        yield opened
        opened.close()


def test_requests_and_answers_pass_as_they_are(
    connection: http.client.HTTPConnection, between: Between
) -> None:
    connection.request("PUT", "/a%2Fb?x=1&y", b"\x00weights", {"Host": "signed"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["ETag"]) == (201, "abc")
    assert answer.read() == b"/a%2Fb?x=1&y signed \x00weights"
    assert (between.asked, between.answered) == ([Call("PUT", "/a/b")], [201])


def test_a_watch_is_told_from_a_list(
    connection: http.client.HTTPConnection, between: Between
) -> None:
    connection.request("GET", "/pods?watch=true")
    connection.getresponse().read()
    assert between.asked == [Call("GET", "/pods", watches=True)]


@pytest.mark.parametrize("moment", ["cuts_asking", "cuts_answer"])
def test_a_request_that_is_cut_has_no_answer(
    connection: http.client.HTTPConnection, between: Between, moment: str
) -> None:
    setattr(between, moment, True)
    connection.request("PUT", "/job")
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        connection.getresponse()
    assert between.answered == ([201] if moment == "cuts_answer" else [])


def test_a_server_that_is_away_shows_as_a_connection_that_ends(between: Between) -> None:
    with upstream() as server:
        gone = server
    with Loop() as loop, Proxy(loop, gone, between) as proxy:
        opened = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        opened.request("GET", "/pods")
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            opened.getresponse()
        opened.close()
