"""An S3 store over a client that misbehaves on demand."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from shardedmodel_runtime.errors import (
    Unavailable,
)
from shardedmodel_runtime.storage import s3
from shardedmodel_runtime.storage.options import StoreOptions
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.s3 import S3Store
from shardedmodel_runtime.storage.uri import parse_uri

CONTENT = bytes(range(100))


class Answer(io.BytesIO):
    """An answer to a ranged GET, whose body may end early, or fail at its end."""

    def __init__(self, data: bytes, content_range: str, fails: bool = False) -> None:
        super().__init__(data)
        self.etag = '"e"'
        self.content_range = content_range
        self.size: int | None = len(data)
        self.released = False
        self._fails = fails

    def readinto(self, into: Any) -> int:
        count = super().readinto(into)
        if count == 0 and self._fails:
            raise Unavailable("connection reset")
        return count

    def stop(self) -> None:
        """Nothing: it never blocks."""

    def release(self) -> None:
        self.released = True


class Ranges:
    """Answers each ranged GET with the next of the answers."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []

    def get(
        self, key: str, headers: dict[str, str], where: str, asks: Callable[[], None]
    ) -> Answer:
        assert key == "prefix/key"
        asks()
        self.asked.append(headers)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Nothing is open."""


class Client:
    """Answers each call with what the test put under the operation's name, in order."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []

    @property
    def meta(self) -> Any:
        """Nothing is signed."""
        return SimpleNamespace(events=SimpleNamespace(register=lambda *handler: None))

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.calls.append((operation, arguments))
            answer = self.answers[operation].pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def refusal(status: int, code: str, date: str = "") -> ClientError:
    fields = {
        "Error": {"Code": code, "Message": ""},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"date": date}},
    }
    return ClientError(fields, "Operation")


def part(start: int, stop: int, *, sent: int | None = None, fails: bool = False) -> Answer:
    """An answer to a ranged GET of ``[start, stop)`` of which ``sent`` bytes come."""
    data = CONTENT[start:stop][:sent]
    return Answer(data, f"bytes {start}-{stop - 1}/{len(CONTENT)}", fails)


def beginning(stop: int, *, sent: int | None = None) -> dict[str, Any]:
    """What a client answers to a request for ``[0, stop)`` of which ``sent`` bytes come."""
    return {
        "ContentLength": stop,
        "ContentRange": f"bytes 0-{stop - 1}/{len(CONTENT)}",
        "ETag": '"e"',
        "Body": io.BytesIO(CONTENT[:stop][:sent]),
    }


def make(
    monkeypatch: pytest.MonkeyPatch,
    client: Client | None = None,
    ranges: Ranges | None = None,
    attempts: int = 3,
) -> S3Store:
    monkeypatch.setattr(s3, "make_client", lambda *arguments: client or Client())
    monkeypatch.setattr(s3, "RangeReader", lambda *arguments: ranges)
    retry = RetryPolicy(attempts=attempts, base_seconds=0, sleep=lambda seconds: None)
    return S3Store(parse_uri("s3://bucket/prefix"), StoreOptions(), retry)


def read(store: S3Store, start: int, stop: int, digest: str | None = None) -> bytes:
    into = bytearray(stop - start)
    store.read_range("key", start, memoryview(into), digest=digest)
    return bytes(into)
