from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from shardedmodel_runtime.rank.pipe import RankMessage, Reporter
from shardedmodel_runtime.report import RankReport


def compose() -> RankMessage:
    return RankMessage(rank=RankReport(rank=1, state="loading"))


def test_a_message_is_one_line_of_json() -> None:
    reading, writing = os.pipe()
    Reporter(writing, compose).send(compose())
    os.close(writing)
    with open(reading, "rb") as pipe:
        (line,) = pipe.readlines()
    assert RankMessage.model_validate_json(line) == compose()


def test_the_first_report_is_sent_at_once() -> None:
    reading, writing = os.pipe()
    reporter = Reporter(writing, compose)
    reporter.start()
    with open(reading, "rb") as pipe:
        line = pipe.readline()
        reporter.stop()
    os.close(writing)
    assert RankMessage.model_validate_json(line).rank.state == "loading"


def test_a_rank_ends_with_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    kill: Callable[[int, int], None] = lambda *call: killed.append(call)  # noqa: E731
    monkeypatch.setattr(os, "kill", kill)
    reading, writing = os.pipe()
    os.close(reading)
    Reporter(writing, compose).send(compose())
    os.close(writing)
    assert killed == [(os.getpid(), signal.SIGTERM)]
