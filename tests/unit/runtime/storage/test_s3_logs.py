"""What libraries log of presigned URLs."""

from __future__ import annotations

import logging

import pytest

from shardedmodel_runtime.storage.s3_logs import LOGGERS, hide_signatures

URL = (
    "http://host/bucket/key?X-Amz-Credential=AKIA%2Fus&X-Amz-Security-Token=tok&X-Amz-Signature=0f"
)


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    hide_signatures()
    for name in LOGGERS:
        caplog.set_level(logging.DEBUG, name)


@pytest.mark.parametrize("name", LOGGERS)
def test_an_address_is_logged_without_its_query(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger(name).warning("Failed to parse headers (url=%s): %s", URL, "defect")
    (message,) = caplog.messages
    assert message == "Failed to parse headers (url=http://host/bucket/key): defect"


def test_a_traceback_is_logged_without_the_query(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(f"cannot connect to '{URL}'")
    except ValueError:
        logging.getLogger("botocore.endpoint").debug("Exception received.", exc_info=True)
    assert "cannot connect to 'http://host/bucket/key'" in caplog.text
    assert "X-Amz" not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "CanonicalRequest:\nGET\n/key\n" + URL.partition("?")[2],
        "x-amz-security-token:tok\nhost:h",
        "{'X-Amz-Security-Token': 'tok'}",
    ],
    ids=["query", "header", "dictionary"],
)
def test_a_token_that_stands_by_itself_is_not_logged(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("botocore.auth").debug("%s", text)
    assert not any(secret in caplog.text for secret in ("tok\n", "=tok", "'tok'", "AKIA", "=0f"))


def test_a_message_whose_arguments_do_not_fit_does_not_raise_while_it_is_filtered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = logging.LogRecord("urllib3.connection", 30, "", 0, f"%d {URL}", ("x",), None)
    assert logging.getLogger("urllib3.connection").filter(record)
    assert "X-Amz" not in record.msg


def test_hiding_twice_filters_once() -> None:
    logger = logging.getLogger(LOGGERS[0])
    before = list(logger.filters)
    hide_signatures()
    assert logger.filters == before


def test_other_loggers_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("an.application").warning("why? because")
    assert caplog.messages == ["why? because"]
