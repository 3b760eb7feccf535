from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPResponse
from unittest.mock import Mock

import pytest

from shardedmodel_runtime import http
from shardedmodel_runtime.http import Answer, handler_class, routes


def ask(
    path: str,
    method: str = "GET",
    *,
    report: Callable[[], str] = lambda: "{}",
    ready: bool = True,
    healthy: bool = True,
    metrics: str = "",
) -> tuple[int, str]:
    """Send one request through a pair of connected sockets, without a network."""
    answers = routes(report, lambda: ready, lambda: healthy, lambda: metrics)
    client, server = socket.socketpair()
    with client, server:
        client.sendall(f"{method} {path} HTTP/1.0\r\n\r\n".encode())
        handler_class(answers)(server, ("", 0), None)  # type: ignore[arg-type]
        server.shutdown(socket.SHUT_WR)
        response = HTTPResponse(client, method=method)
        response.begin()
        with response:
            return response.status, response.read().decode()


def test_the_report_is_json_as_it_was_given() -> None:
    assert ask("/report", report=lambda: '{"a":1}') == (200, '{"a":1}')


def test_metrics_are_given_as_they_are() -> None:
    assert ask("/metrics", metrics="m 1\n") == (200, "m 1\n")


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_readiness_is_a_status(ready: bool, status: int) -> None:
    assert ask("/readyz", ready=ready)[0] == status


@pytest.mark.parametrize(("healthy", "status"), [(True, 200), (False, 503)])
def test_health_is_a_status(healthy: bool, status: int) -> None:
    assert ask("/healthz", healthy=healthy)[0] == status


def test_a_query_does_not_change_the_address() -> None:
    assert ask("/healthz?verbose=1")[0] == 200


def test_other_addresses_are_not_found() -> None:
    assert ask("/etc/passwd")[0] == 404


def test_a_head_request_gets_no_body() -> None:
    assert ask("/report", "HEAD") == (200, "")


def test_an_answer_that_fails_is_an_error_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> str:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR):
        assert ask("/report", report=fail)[0] == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "could not answer /report" in caplog.text


def test_an_answer_has_a_status_a_type_and_a_text() -> None:
    answer: Answer = routes(lambda: "r", lambda: True, lambda: True, lambda: "m")["/report"]()
    assert answer == (HTTPStatus.OK, "application/json", "r")


@pytest.mark.parametrize(
    ("error", "level"), [(ConnectionResetError(), logging.DEBUG), (ValueError(), logging.ERROR)]
)
def test_a_client_that_goes_away_is_no_error_of_the_server(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    level: int,
) -> None:
    caplog.set_level(logging.DEBUG)
    try:
        raise error
    except (ConnectionError, ValueError):
        http._Server.handle_error(Mock(), None, None)
    assert [record.levelno for record in caplog.records] == [level]
    assert capsys.readouterr().err == ""
