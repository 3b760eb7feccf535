from __future__ import annotations

import io
from dataclasses import replace
from random import Random

import pytest

from tests.faultproxy.faults import WRONG_BYTES, Case, Delivery, End, Kind, befalls, deliver
from tests.faultproxy.messages import Head, Request, Response

BODY = bytes(range(200))
REQUEST = Request(Head("GET /bucket/key HTTP/1.1", (("Range", "bytes=0-199"),)))
GOOD = Response(
    Head(
        "HTTP/1.1 206 Partial Content",
        (("Content-Length", "200"), ("Content-Range", "bytes 0-199/1000"), ("ETag", '"1"')),
    ),
    BODY,
)


def made(kind: Kind, request: Request = REQUEST) -> Delivery:
    return deliver(kind, Case(request, GOOD, Random(1), b"{}"))


def parsed(delivery: Delivery) -> Response:
    return Response.read(io.BytesIO(delivery.data), "GET")


@pytest.mark.parametrize("kind", Kind)
def test_no_fault_delivers_the_good_answer(kind: Kind) -> None:
    delivery = made(kind)
    assert (delivery.data, delivery.end) != (GOOD.head.to_bytes() + BODY, End.KEEP)


@pytest.mark.parametrize(("signed", "refused"), [("120500", False), ("140000", True)])
def test_a_clock_is_refused_where_it_is_wrong(signed: str, refused: bool) -> None:
    address = f"GET /bucket/key?X-Amz-Date=20261123T{signed}Z HTTP/1.1"
    date = GOOD.head.having("Date", "Mon, 23 Nov 2026 12:00:00 GMT")
    answer = replace(GOOD, head=date)
    assert befalls(Kind.CLOCK_SKEW, Request(Head(address, ())), answer) == refused


@pytest.mark.parametrize(("region", "refused"), [("eu-central-1", False), ("us-east-1", True)])
@pytest.mark.parametrize("place", ["address", "header"])
def test_a_bucket_is_in_one_region(region: str, refused: bool, place: str) -> None:
    named = f"Credential=key/20261123/{region}/s3/aws4_request"
    request = {
        "address": Request(Head(f"GET /bucket/key?X-Amz-{named} HTTP/1.1", ())),
        "header": Request(Head("GET /bucket/key HTTP/1.1", (("Authorization", f"AWS4 {named}"),))),
    }[place]
    assert befalls(Kind.OTHER_REGION, request, GOOD) == refused


def test_a_flipped_bit_is_one_bit() -> None:
    body = parsed(made(Kind.FLIPPED_BIT)).body
    different = [a ^ b for a, b in zip(body, BODY, strict=True) if a != b]
    assert [number.bit_count() for number in different] == [1]


def test_a_short_body_is_framed_rightly() -> None:
    answer = parsed(made(Kind.SHORT_BODY))
    assert answer.body == BODY[: len(answer.body)]
    assert len(answer.body) < len(BODY)


@pytest.mark.parametrize("kind", [Kind.EARLY_CLOSE, Kind.RESET, Kind.STALL])
def test_an_answer_that_breaks_off_ends_before_its_length(kind: Kind) -> None:
    with pytest.raises(ConnectionError):
        parsed(made(kind))


def test_a_wrong_range_names_other_bytes() -> None:
    head = parsed(made(Kind.WRONG_RANGE)).head
    assert head.get("Content-Range") == f"bytes {WRONG_BYTES}-{199 + WRONG_BYTES}/1000"


def test_a_malformed_header_leaves_the_others_and_the_body() -> None:
    good = GOOD.head.to_bytes() + BODY
    assert made(Kind.MALFORMED_HEADER).data.replace(b"this line is no header\r\n", b"") == good


def test_an_ignored_range_is_a_plain_answer() -> None:
    answer = parsed(made(Kind.RANGE_IGNORED))
    assert (answer.status, answer.head.get("Content-Range")) == (200, "")


def test_a_replaced_object_has_another_digest_and_other_bytes() -> None:
    answer = parsed(made(Kind.REPLACED))
    assert answer.head.get("ETag") != '"1"'
    assert not any(a == b for a, b in zip(answer.body, BODY, strict=True))


def test_a_replaced_object_fails_its_condition() -> None:
    request = Request(REQUEST.head.having("If-Match", '"1"'))
    assert parsed(made(Kind.REPLACED, request)).status == 412


def test_chunks_are_put_together() -> None:
    wire = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    )
    answer = Response.read(io.BytesIO(wire), "GET")
    assert (answer.body, answer.head.get("Content-Length")) == (b"abcde", "5")


def test_the_answer_to_head_has_no_body() -> None:
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert Response.read(io.BytesIO(wire), "HEAD").body == b""
