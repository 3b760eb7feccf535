from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from shardedmodel_operator import logs
from shardedmodel_operator.logs import JsonFormatter, TextFormatter, current_model


@pytest.fixture
def model() -> Iterator[str]:
    token = current_model.set("team-a/llama")
    yield "team-a/llama"
    current_model.reset(token)


def record(message: str = "applied %s", *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, __file__, 1, message, arguments, None)


def failed_record() -> logging.LogRecord:
    try:
        raise ValueError("boom")
    except ValueError:
        return logging.LogRecord("x", logging.ERROR, __file__, 1, "bad", (), sys.exc_info())


def test_a_line_is_one_json_object_that_names_the_model(model: str) -> None:
    line = json.loads(JsonFormatter().format(record("applied %s", "Job\nx")))
    assert (line["model"], line["namespace"]) == (model, "team-a")
    assert (line["message"], line["level"]) == ("applied Job\nx", "INFO")


def test_outside_of_a_reconciliation_no_model_is_named() -> None:
    assert "model" not in json.loads(JsonFormatter().format(record("start")))


def test_a_traceback_stays_in_its_line() -> None:
    text = JsonFormatter().format(failed_record())
    assert "\n" not in text
    assert "ValueError: boom" in json.loads(text)["exception"]


def test_text_is_for_people(model: str) -> None:
    assert TextFormatter().format(record("start")).endswith(f"INFO    {model}: start")


def test_text_shows_a_traceback_below() -> None:
    assert TextFormatter().format(failed_record()).endswith("ValueError: boom")


def test_libraries_are_kept_quiet() -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        logs.configure("DEBUG", "json")
        assert logging.getLogger("kubernetes.client.rest").getEffectiveLevel() == logging.WARNING
        assert logging.getLogger("shardedmodel_operator").getEffectiveLevel() == logging.DEBUG
    finally:
        root.handlers, root.level = handlers, level
