"""The report server on a real port, and the command when its port is taken."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from shardedmodel_runtime.cli import main
from shardedmodel_runtime.http import ReportServer
from tests.builders.layout import make_checkpoint

pytestmark = pytest.mark.integration


def server(port: int = 0) -> ReportServer:
    return ReportServer(port, lambda: "{}", lambda: True, lambda: True, lambda: "")


def test_the_report_is_served_on_the_port_that_was_bound() -> None:
    with (
        server() as serving,
        urllib.request.urlopen(f"http://127.0.0.1:{serving.port}/report") as answer,
    ):
        assert answer.read() == b"{}"


def test_stopping_frees_the_port() -> None:
    with server() as first:
        port = first.port
    with server(port) as second:
        assert second.port == port


def test_a_pod_whose_port_is_taken_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "termination"
    with server() as taken:
        port = str(taken.port)
        code = main(["rank", "file:///x/0123", "--port", port, "--termination-log", str(log)])
    assert (code, json.loads(log.read_text())["reason"]) == (2, "ConfigurationError")
    assert f"--port: cannot listen on {port}" in capsys.readouterr().err


def test_a_job_whose_port_is_taken_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_checkpoint(tmp_path / "source", "bert").uri
    storage = (tmp_path / "shards").as_uri()
    with server() as taken:
        port = str(taken.port)
        assert main(["shard", source, storage, "--tensor", "2", "--port", port]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: ConfigurationError: --port: cannot listen on {port}: Address already in use; "
        "name another one, or 0 for any"
    )


def test_a_wrong_argument_is_in_the_termination_log(tmp_path: Path) -> None:
    log = tmp_path / "termination"
    code = main(["rank", "file:///x/0123", "--backend", "mpi", "--termination-log", str(log)])
    assert (code, "backend: 'mpi'" in json.loads(log.read_text())["message"]) == (2, True)
