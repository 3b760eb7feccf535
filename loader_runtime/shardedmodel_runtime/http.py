"""The four addresses that Job and rank pods serve: ``/healthz /readyz /metrics /report``.

Standard library alone: the answers are a few kilobytes, asked for by the kubelet, Prometheus and
the operator every few seconds, from a process that must not import more than it needs.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, ClassVar, Self

from shardedmodel_runtime.errors import ConfigurationError, excerpt
from shardedmodel_runtime.report import REPORT_PATH

logger = logging.getLogger(__name__)

HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"
METRICS_PATH = "/metrics"

CLIENT_TIMEOUT_SECONDS = 5.0
"""A client that sends nothing for so long is dropped, so that idle connections hold no thread."""
STOP_POLL_SECONDS = 0.05
"""How often the serving thread looks for ``stop``: bounds what a pod's end waits for it."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of Prometheus' text exposition format 0.0.4."""


Answer = tuple[HTTPStatus, str, str]
"""Status, content type and text."""


class ReportServer:
    """Serves one process's health, readiness, metrics and report over HTTP.

    The four callables are called in the server's threads, once per request; they must be quick
    and thread-safe. One that raises is answered with 500, and the server goes on.

    Args:
        port: TCP port on all addresses; 0 lets the system choose one (see ``port``).
        report: gives the JSON text of ``/report``.
        ready: decides between 200 and 503 on ``/readyz``.
        healthy: decides between 200 and 503 on ``/healthz``.
        metrics: gives the Prometheus text of ``/metrics``.

    Raises:
        ConfigurationError: the port cannot be bound.
    """

    def __init__(
        self,
        port: int,
        report: Callable[[], str],
        ready: Callable[[], bool],
        healthy: Callable[[], bool],
        metrics: Callable[[], str],
    ) -> None:
        answers = routes(report, ready, healthy, metrics)
        try:
            self._server = _Server(port, handler_class(answers))
        except OSError as error:
            reason = excerpt(error.strerror or str(error))
            raise ConfigurationError(
                f"--port: cannot listen on {port}: {reason}; name another one, or 0 for any"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(STOP_POLL_SECONDS,),
            name="report-server",
            daemon=True,
        )

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve from a thread of its own until ``stop``; to be called once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and free the port; harmless when it never started."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    """Listens on every address, of IPv6 too where there is IPv6."""

    daemon_threads = True
    block_on_close = False
    """``stop`` does not wait for slow clients: a pod has five seconds to end."""

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        super().__init__(("", port), handler)

    def server_bind(self) -> None:
        """Bind IPv6 and IPv4 together where there is IPv6; never ask DNS for the own name."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what went wrong with one client; most often it went away before its answer."""
        error = sys.exception()
        if isinstance(error, ConnectionError):
            logger.debug("a client went away: %s", error)
        else:
            logger.exception("a client could not be answered")


def routes(
    report: Callable[[], str],
    ready: Callable[[], bool],
    healthy: Callable[[], bool],
    metrics: Callable[[], str],
) -> dict[str, Callable[[], Answer]]:
    """Give what each address answers; the arguments are those of ``ReportServer``."""
    return {
        HEALTH_PATH: lambda: _verdict(healthy()),
        READY_PATH: lambda: _verdict(ready()),
        METRICS_PATH: lambda: (HTTPStatus.OK, METRICS_TYPE, metrics()),
        REPORT_PATH: lambda: (HTTPStatus.OK, "application/json", report()),
    }


def handler_class(answers: Mapping[str, Callable[[], Answer]]) -> type[BaseHTTPRequestHandler]:
    """Give the class that answers one connection."""
    return type("Handler", (_Handler,), {"answers": answers})


def _verdict(good: bool) -> Answer:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "text/plain; charset=utf-8", "ok\n" if good else "no\n"


class _Handler(BaseHTTPRequestHandler):
    answers: ClassVar[Mapping[str, Callable[[], Answer]]] = {}
    timeout = CLIENT_TIMEOUT_SECONDS
    server_version = "shardedmodel"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of the four addresses, or 404."""
        route = self.answers.get(self.path.split("?", 1)[0])
        if route is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "not found\n")
            return
        try:
            answer = route()
        except Exception:  # one broken answer must not end the others
            logger.exception("could not answer %s", self.path)
            answer = (HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", "error\n")
        self._answer(*answer)

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every second: they belong to debugging alone."""
        logger.debug(format, *args)
