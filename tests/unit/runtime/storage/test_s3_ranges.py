"""Ranged GETs against an HTTP session that answers on demand; the real server is in integration."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from email.errors import MissingHeaderBodySeparatorDefect
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError

from shardedmodel_runtime.errors import AccessDenied, ConfigurationError, NotFound, Unavailable
from shardedmodel_runtime.storage import s3_ranges, s3_urls
from shardedmodel_runtime.storage.options import Credentials, StoreOptions
from shardedmodel_runtime.storage.s3_client import make_client, new_session
from shardedmodel_runtime.storage.s3_clock import ServerClock
from shardedmodel_runtime.storage.s3_ranges import RangeReader
from shardedmodel_runtime.storage.s3_urls import SignedUrls

WHERE = "s3://bucket/key"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Raw:
    """urllib3's response as far as it is used."""

    def __init__(self, body: Any, headers: dict[str, str]) -> None:
        self._fp = body
        self.headers = headers
        self.log: list[str] = []

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.log.append(name)


class Answer:
    """botocore's response as far as it is used."""

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.status_code = status
        self.headers = headers
        self.raw = Raw(io.BytesIO(body), headers)


def refusal(status: int, code: str, **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    return Answer(status, body.encode(), **headers)


class Http:
    """Answers each request with the next of the answers."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[Any] = []

    def send(self, request: Any) -> Answer:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def make(monkeypatch: pytest.MonkeyPatch, *answers: Answer | Exception) -> tuple[RangeReader, Http]:
    http = Http(*answers)
    monkeypatch.setattr(s3_ranges, "URLLib3Session", lambda **settings: http)
    clock = ServerClock(lambda: NOW)

    def client_in(region: str) -> Any:
        options = StoreOptions("http://localhost:1", region, Credentials("key", "secret"))
        client = make_client(new_session(), options, 30)
        clock.sign_requests_of(client)
        return client

    urls = SignedUrls(client_in("us-west-2"), client_in, "bucket")
    return RangeReader(urls, new_session(), clock, 30), http


def get(reader: RangeReader) -> s3_ranges.RangeAnswer:
    return reader.get("key", {"Range": "bytes=0-9"}, WHERE, lambda: None)


def test_a_request_is_signed_in_its_address_and_carries_the_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, http = make(monkeypatch, Answer(206))
    get(reader)
    (request,) = http.requests
    assert request.url.startswith("http://localhost:1/bucket/key?X-Amz-Algorithm=AWS4-HMAC-SHA256")
    assert request.headers["Range"] == "bytes=0-9"


def test_an_object_is_signed_once_until_its_signature_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, _ = make(monkeypatch, *(Answer(206) for _ in range(3)))
    signed: list[str] = []
    client = reader._urls._client
    sign = client.generate_presigned_url

    def count(operation: str, **values: Any) -> Any:
        signed.append(values["Params"]["Key"])
        return sign(operation, **values)

    monkeypatch.setattr(client, "generate_presigned_url", count)
    get(reader)
    get(reader)
    assert signed == ["key"]
    monkeypatch.setattr(s3_urls, "RENEWAL_SECONDS", 0.0)
    get(reader)
    assert signed == ["key", "key"]


def test_an_answer_tells_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"ETag": '"e"', "Content-Range": "bytes 0-2/3"}
    reader, _ = make(monkeypatch, Answer(206, b"abc", **headers))
    answer, into = get(reader), bytearray(3)
    assert answer.readinto(memoryview(into)) == 3
    assert (bytes(into), answer.etag, answer.content_range) == (b"abc", '"e"', "bytes 0-2/3")


def test_a_body_that_breaks_off_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def readinto(self, into: Any) -> int:
            raise ConnectionResetError("reset by peer")

    answer = Answer(206)
    answer.raw._fp = Broken()
    reader, _ = make(monkeypatch, answer)
    with pytest.raises(Unavailable, match="reset by peer"):
        get(reader).readinto(memoryview(bytearray(1)))


@pytest.mark.parametrize(
    ("call", "done"), [("stop", "shutdown"), ("release", "release_conn"), ("close", "close")]
)
def test_a_connection_is_kept_stopped_or_closed(
    monkeypatch: pytest.MonkeyPatch, call: str, done: str
) -> None:
    whole = Answer(206)
    reader, _ = make(monkeypatch, whole)
    getattr(get(reader), call)()
    assert whole.raw.log == [done]


def test_a_refusal_is_the_error_that_boto3_would_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, _ = make(monkeypatch, refusal(404, "NoSuchBucket"))
    with pytest.raises(NotFound, match="the bucket does not exist"):
        get(reader)


def test_an_expired_signature_is_made_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, http = make(monkeypatch, refusal(400, "ExpiredToken"), Answer(206))
    get(reader)
    assert len(http.requests) == 2


def test_credentials_that_stay_expired_are_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, _ = make(monkeypatch, refusal(400, "ExpiredToken"), refusal(400, "ExpiredToken"))
    with pytest.raises(AccessDenied, match="out of date"):
        get(reader)


def test_a_request_is_signed_anew_by_the_clock_of_a_server_that_says_another_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    date = "Mon, 23 Nov 2026 14:00:00 GMT"
    reader, http = make(monkeypatch, refusal(403, "AccessDenied", Date=date), Answer(206))
    get(reader)
    signed = [dict(parse_qsl(urlsplit(r.url).query))["X-Amz-Date"] for r in http.requests]
    assert signed == ["20261123T120000Z", "20261123T140000Z"]


def test_a_refusal_by_a_server_of_the_same_time_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    date = "Mon, 23 Nov 2026 12:00:30 GMT"
    reader, _ = make(monkeypatch, refusal(403, "AccessDenied", Date=date))
    with pytest.raises(AccessDenied, match="check the credentials"):
        get(reader)


def regions(http: Http) -> list[str]:
    """In which region each request was signed."""
    queries = [dict(parse_qsl(urlsplit(request.url).query)) for request in http.requests]
    return [query["X-Amz-Credential"].split("/")[2] for query in queries]


WRONG_REGION = {
    "AuthorizationQueryParametersError": Answer(
        400,
        b"<Error><Code>AuthorizationQueryParametersError</Code><Message>the region is wrong"
        b"</Message><Region>eu-central-1</Region></Error>",
    ),
    "PermanentRedirect": refusal(
        301, "PermanentRedirect", **{"x-amz-bucket-region": "eu-central-1"}
    ),
    "TemporaryRedirect": refusal(
        307, "TemporaryRedirect", **{"x-amz-bucket-region": "eu-central-1"}
    ),
}


@pytest.mark.parametrize("code", WRONG_REGION)
def test_a_bucket_in_another_region_is_followed_there(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    reader, http = make(monkeypatch, WRONG_REGION[code], Answer(206), Answer(206))
    get(reader)
    get(reader)
    assert regions(http) == ["us-west-2", "eu-central-1", "eu-central-1"]


def test_a_region_that_no_server_may_have_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"x-amz-bucket-region": "evil.example/"}
    reader, _ = make(monkeypatch, refusal(301, "PermanentRedirect", **told))
    with pytest.raises(ConfigurationError, match="in another region"):
        get(reader)


def test_a_bucket_that_no_region_admits_to_ends_in_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [refusal(301, "PermanentRedirect", **{"x-amz-bucket-region": r}) for r in "ab"]
    reader, _ = make(monkeypatch, *answers)
    with pytest.raises(ConfigurationError, match="in another region"):
        get(reader)


def test_a_message_never_shows_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://localhost:1/bucket/key?X-Amz-Signature=0123"
    reader, _ = make(monkeypatch, EndpointConnectionError(endpoint_url=url))
    with pytest.raises(Unavailable, match="localhost:1/bucket/key") as error:
        get(reader)
    assert "X-Amz" not in error.value.message


def test_an_answer_that_lost_its_etag_to_a_malformed_header_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Malformed(io.BytesIO):
        msg = Message()

    Malformed.msg.defects = [MissingHeaderBodySeparatorDefect()]
    answer = Answer(206, b"", **{"Content-Length": "3"})
    answer.raw._fp = Malformed(b"abc")
    reader, _ = make(monkeypatch, answer)
    with pytest.raises(Unavailable, match="headers are malformed"):
        get(reader)


def test_missing_credentials_are_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, _ = make(monkeypatch, NoCredentialsError())
    with pytest.raises(AccessDenied, match="no complete credentials"):
        get(reader)
