"""What each fault makes of a good answer: pure functions from an answer to what is delivered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from random import Random

from tests.faultproxy.messages import Request, Response, error_response

WRONG_BYTES = 64
"""By how much a wrong length or range is wrong: less than any range of the tests."""
CLOCK_TOLERANCE = timedelta(minutes=15)
"""What S3 lets a request's time differ from its own."""
BUCKET_REGION = "eu-central-1"
"""Where the bucket is if that is the fault."""

_INVERTED = bytes(255 - byte for byte in range(256))
"""A table for ``bytes.translate``: every bit of another object is another."""


class Kind(StrEnum):
    """The kinds of faults."""

    FLIPPED_BIT = "flipped bit"
    OTHER_BYTES = "bytes of another place"
    SHORT_BODY = "short body, right framing"
    EARLY_CLOSE = "closed in the middle"
    RESET = "reset in the middle"
    RESET_AT_ONCE = "reset before the answer"
    STALL = "stall in the middle"
    STALL_AT_ONCE = "stall before the answer"
    ERROR_500 = "500 InternalError"
    SLOW_DOWN = "503 SlowDown"
    WRONG_RANGE = "wrong Content-Range"
    RANGE_IGNORED = "Range ignored"
    WRONG_LENGTH = "wrong Content-Length"
    GARBAGE = "not HTTP"
    MALFORMED_HEADER = "malformed header"
    CLOCK_SKEW = "RequestTimeTooSkewed"
    OTHER_REGION = "bucket of another region"
    EXPIRED = "ExpiredToken"
    REPLACED = "object replaced"
    OTHER_MANIFEST = "manifest of another layout"


class End(StrEnum):
    """What happens to the connection after the bytes."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"


@dataclass(frozen=True)
class Delivery:
    """What the client gets instead of the answer."""

    data: bytes
    end: End = End.KEEP


@dataclass(frozen=True)
class Case:
    """A good answer, what it answers, and what chance a fault has."""

    request: Request
    response: Response
    random: Random
    other_manifest: bytes

    @property
    def body(self) -> bytes:
        """The good body."""
        return self.response.body

    @property
    def cut(self) -> int:
        """A place in the body where something ends: never the end itself."""
        return self.random.randrange(max(1, len(self.body)))


def befalls(kind: Kind, request: Request, response: Response) -> bool:
    """Whether a fault has its chance.

    A clock or a region that is right is not refused, nor an error spoilt.
    """
    if kind is Kind.CLOCK_SKEW:
        return abs(request.signed_at - response.date) > CLOCK_TOLERANCE
    if kind is Kind.OTHER_REGION:
        return request.signed_in != BUCKET_REGION
    return response.status < 300


def deliver(kind: Kind, case: Case) -> Delivery:
    """Say what the client gets."""
    return _MAKERS[kind](case)


def intact(response: Response) -> Delivery:
    """The answer as it is."""
    return Delivery(response.head.to_bytes() + response.body)


def with_body(response: Response, body: bytes) -> Delivery:
    """The answer with other bytes and a length that says so."""
    head = response.head.having("Content-Length", str(len(body)))
    return intact(replace(response, head=head, body=body))


def _flipped_bit(case: Case) -> Delivery:
    body = bytearray(case.body)
    body[case.cut] ^= 1 << case.random.randrange(8)
    return with_body(case.response, bytes(body))


def _other_bytes(case: Case) -> Delivery:
    return with_body(case.response, case.body[1:] + case.body[:1])


def _short_body(case: Case) -> Delivery:
    return with_body(case.response, case.body[: case.cut])


def _broken_off(end: End) -> Callable[[Case], Delivery]:
    def make(case: Case) -> Delivery:
        return Delivery(case.response.head.to_bytes() + case.body[: case.cut], end)

    return make


def _nothing(end: End) -> Callable[[Case], Delivery]:
    return lambda case: Delivery(b"", end)


def _error(status: int, phrase: str, code: str) -> Callable[[Case], Delivery]:
    return lambda case: intact(error_response(status, phrase, code))


def _clock_skew(case: Case) -> Delivery:
    refusal = error_response(403, "Forbidden", "RequestTimeTooSkewed")
    date = case.response.head.get("Date")
    return intact(replace(refusal, head=refusal.head.having("Date", date)))


def _other_region(case: Case) -> Delivery:
    refusal = error_response(301, "Moved Permanently", "PermanentRedirect")
    return intact(replace(refusal, head=refusal.head.having("x-amz-bucket-region", BUCKET_REGION)))


def _wrong_range(case: Case) -> Delivery:
    span, _, size = case.response.head.get("Content-Range").removeprefix("bytes ").partition("/")
    first, _, last = span.partition("-")
    moved = f"bytes {int(first) + WRONG_BYTES}-{int(last) + WRONG_BYTES}/{size}"
    head = case.response.head.having("Content-Range", moved)
    return intact(replace(case.response, head=head))


def _range_ignored(case: Case) -> Delivery:
    head = replace(case.response.head.without("Content-Range"), line="HTTP/1.1 200 OK")
    return intact(replace(case.response, head=head))


def _wrong_length(case: Case) -> Delivery:
    return with_body(case.response, case.body + bytes(WRONG_BYTES))


def _garbage(case: Case) -> Delivery:
    return Delivery(b"\x16\x03\x01 this is not HTTP\r\n\r\n", End.CLOSE)


def _malformed_header(case: Case) -> Delivery:
    """A line among the headers that is none: clients lose what comes behind it."""
    good = intact(case.response).data
    lines = good.partition(b"\r\n\r\n")[0].split(b"\r\n")
    lines.insert(case.random.randrange(1, len(lines) + 1), b"this line is no header")
    return Delivery(b"\r\n".join([*lines, b"", case.body]))


def _replaced(case: Case) -> Delivery:
    """Another object under the same key, of a server that knows conditions."""
    if case.request.head.get("If-Match"):
        return intact(error_response(412, "Precondition Failed", "PreconditionFailed"))
    head = case.response.head.having("ETag", '"00000000000000000000000000000000"')
    return intact(replace(case.response, head=head, body=case.body.translate(_INVERTED)))


def _other_manifest(case: Case) -> Delivery:
    return with_body(case.response, case.other_manifest)


_MAKERS: dict[Kind, Callable[[Case], Delivery]] = {
    Kind.FLIPPED_BIT: _flipped_bit,
    Kind.OTHER_BYTES: _other_bytes,
    Kind.SHORT_BODY: _short_body,
    Kind.EARLY_CLOSE: _broken_off(End.CLOSE),
    Kind.RESET: _broken_off(End.RESET),
    Kind.RESET_AT_ONCE: _nothing(End.RESET),
    Kind.STALL: _broken_off(End.STALL),
    Kind.STALL_AT_ONCE: _nothing(End.STALL),
    Kind.ERROR_500: _error(500, "Internal Server Error", "InternalError"),
    Kind.SLOW_DOWN: _error(503, "Service Unavailable", "SlowDown"),
    Kind.WRONG_RANGE: _wrong_range,
    Kind.RANGE_IGNORED: _range_ignored,
    Kind.WRONG_LENGTH: _wrong_length,
    Kind.GARBAGE: _garbage,
    Kind.MALFORMED_HEADER: _malformed_header,
    Kind.CLOCK_SKEW: _clock_skew,
    Kind.OTHER_REGION: _other_region,
    Kind.EXPIRED: _error(400, "Bad Request", "ExpiredToken"),
    Kind.REPLACED: _replaced,
    Kind.OTHER_MANIFEST: _other_manifest,
}
