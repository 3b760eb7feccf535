"""Answers of a server, or of what stands before it, that tell what cannot be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from shardedmodel_runtime.errors import StorageError, Unavailable
from shardedmodel_runtime.storage.s3_answers import length_in, whole_size
from shardedmodel_runtime.storage.s3_clock import ServerClock
from tests.builders.s3 import CONTENT, Answer, Client, Ranges, make, part, read

MANY_DIGITS = "9" * 5000
"""More than Python makes a number of."""
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(("header", "told"), [("0", 0), ("9" * 19, 10**19 - 1)])
def test_a_length_is_a_number_that_an_object_may_have(header: str, told: int) -> None:
    assert length_in(header) == told


@pytest.mark.parametrize("header", ["", "-1", "1.5", "abc", "²", "9" * 20, MANY_DIGITS])
def test_what_is_no_length_of_an_object_is_none(header: str) -> None:
    assert length_in(header) is None


def test_an_answer_of_a_length_that_cannot_be_is_asked_for_again() -> None:
    with pytest.raises(Unavailable, match="does not tell the object's length"):
        whole_size({"ContentRange": f"bytes 0-1/{MANY_DIGITS}", "ContentLength": ""}, "s3://b/k")


def test_a_range_of_an_object_of_a_length_that_cannot_be_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = Answer(CONTENT[:10], f"bytes 1-10/{MANY_DIGITS}")
    assert read(make(monkeypatch, ranges=Ranges(wrong, part(0, 10))), 0, 10) == CONTENT[:10]


@pytest.mark.parametrize("error", [ValueError("invalid literal"), ResponseParserError("not XML")])
def test_an_answer_that_boto3_does_not_understand_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    whole = {"ContentLength": 7, "ETag": '"e"'}
    assert make(monkeypatch, Client(head_object=[error, whole])).describe("key").size == 7
    with pytest.raises(StorageError, match="the answer cannot be understood"):
        make(monkeypatch, Client(head_object=[error] * 3)).describe("key")


@pytest.mark.parametrize(
    "date",
    [
        "yesterday",
        "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ],
)
def test_a_time_that_cannot_be_is_not_learnt(date: str) -> None:
    clock = ServerClock(lambda: NOW)
    answer: Any = {"ResponseMetadata": {"HTTPStatusCode": 403, "HTTPHeaders": {"date": date}}}
    assert not clock.learn(ClientError(answer, "GetObject"))


def test_a_time_that_differs_is_learnt() -> None:
    clock = ServerClock(lambda: NOW + timedelta(hours=2))
    headers = {"date": "Mon, 23 Nov 2026 12:00:00 GMT"}
    answer: Any = {"ResponseMetadata": {"HTTPStatusCode": 403, "HTTPHeaders": headers}}
    assert clock.learn(ClientError(answer, "GetObject"))
