from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shardedmodel_operator.cluster import reports
from shardedmodel_operator.cluster.reports import ReportClient
from shardedmodel_operator.planning.observed import ReportTarget
from shardedmodel_runtime.report import GroupReport, ShardProgress

pytestmark = pytest.mark.integration

GROUP = GroupReport(layout_hash="ab", world_size=2).to_json().encode()
PROGRESS = (
    ShardProgress(objects=1, bytes=10, bytes_done=5, bytes_per_second=1, seconds=5)
    .to_json()
    .encode()
)

Answer = Callable[[BaseHTTPRequestHandler], None]


def body(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with ``content``."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Answer without an end."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 65536)


@contextmanager
def pod(answer: Answer) -> Iterator[str]:
    """Serve ``answer`` as a pod would; gives the address of its report."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:
                # The client has seen enough.
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/report"
    finally:
        server.shutdown()
        server.server_close()


def pulled(url: str, kind: str = "GroupReport") -> tuple[set[str], set[str]]:
    """Pull one report; gives the keys of Jobs and of groups that were kept."""
    shards, groups = asyncio.run(ReportClient().pull([ReportTarget("key", url, kind)]))
    return set(shards), set(groups)


def test_a_groups_report_is_pulled() -> None:
    with pod(body(GROUP)) as url:
        assert pulled(url) == (set(), {"key"})


def test_a_jobs_progress_is_pulled() -> None:
    with pod(body(PROGRESS)) as url:
        assert pulled(url, "ShardProgress") == ({"key"}, set())


def test_one_pod_that_fails_does_not_spoil_the_others() -> None:
    with pod(body(GROUP)) as good, pod(body(b"", 500)) as bad:
        targets = [
            ReportTarget("bad", bad, "GroupReport"),
            ReportTarget("good", good, "GroupReport"),
        ]
        _, groups = asyncio.run(ReportClient().pull(targets))
    assert set(groups) == {"good"}


def test_a_redirect_is_not_followed() -> None:
    with pod(body(GROUP)) as elsewhere, pod(body(b"", 302, {"Location": elsewhere})) as url:
        assert pulled(url) == (set(), set())


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pod(body(GROUP)) as url:
        assert pulled(url) == (set(), {"key"})


def test_an_endless_report_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "REPORT_BYTES_LIMIT", 1024)
    with pod(endless) as url:
        assert pulled(url) == (set(), set())


def test_a_pod_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "TOTAL_SECONDS", 0.1)
    ended = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        ended.wait(5)

    with pod(hang) as url:
        assert pulled(url) == (set(), set())
        ended.set()


def test_a_pod_that_is_gone_has_no_report() -> None:
    with pod(body(GROUP)) as url:
        pass
    assert pulled(url) == (set(), set())


def test_a_compressed_answer_is_not_expanded() -> None:
    with pod(body(b"\x1f\x8b" + b"\0" * 64, headers={"Content-Encoding": "gzip"})) as url:
        assert pulled(url) == (set(), set())
