from __future__ import annotations

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
    SSLError,
)

from shardedmodel_runtime.errors import (
    AccessDenied,
    ConfigurationError,
    NotFound,
    ShardedModelError,
    SourceChanged,
    StorageError,
    Throttled,
    Unavailable,
)
from shardedmodel_runtime.storage.base import TooShort
from shardedmodel_runtime.storage.s3_errors import translate


def answer(status: int, code: str = "") -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": "said\nso"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },
        "GetObject",
    )


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        (answer(404, "NoSuchBucket"), NotFound, "the bucket does not exist"),
        (answer(404, "NoSuchKey"), NotFound, "the object does not exist"),
        (answer(412, "PreconditionFailed"), SourceChanged, "changed"),
        (answer(403, "SignatureDoesNotMatch"), AccessDenied, "SignatureDoesNotMatch: said so"),
        (answer(403), AccessDenied, "access denied"),
        (answer(403, "RequestTimeTooSkewed"), AccessDenied, "clock"),
        (answer(400, "ExpiredToken"), AccessDenied, "out of date"),
        (answer(301, "PermanentRedirect"), ConfigurationError, "another region"),
        (answer(503, "SlowDown"), Throttled, "SlowDown"),
        (answer(400, "RequestTimeout"), Unavailable, "unavailable"),
        (answer(429), Throttled, "429"),
        (answer(500, "InternalError"), Unavailable, "InternalError"),
        (answer(400, "EntityTooLarge"), StorageError, "refused"),
        (NoCredentialsError(), AccessDenied, "give AWS_ACCESS_KEY_ID .* in the environment"),
        (EndpointConnectionError(endpoint_url="http://x"), Unavailable, "http://x"),
        (ConnectTimeoutError(endpoint_url="http://x"), Unavailable, "timed? ?out|timeout"),
        (ReadTimeoutError(endpoint_url="http://x"), Unavailable, "timed? ?out|timeout"),
        (SSLError(endpoint_url="http://x", error="EOF occurred"), Unavailable, "EOF"),
        (
            SSLError(endpoint_url="http://x", error="CERTIFICATE_VERIFY_FAILED"),
            StorageError,
            "name its authority's file in AWS_CA_BUNDLE",
        ),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), Unavailable, "1 read"),
        (ParamValidationError(report="bad name"), ConfigurationError, "bad name"),
        (BotoCoreError(), StorageError, "unspecified"),
    ],
)
def test_every_failure_names_the_object_and_who_is_to_blame(
    error: BotoCoreError | ClientError, expected: type[ShardedModelError], says: str
) -> None:
    translated = translate(error, "s3://bucket/key")
    assert type(translated) is expected
    assert translated.message.startswith("s3://bucket/key: ")
    with pytest.raises(expected, match=f"(?i){says}"):
        raise translated


def test_an_agent_of_credentials_that_does_not_answer_yet_is_asked_again() -> None:
    error = CredentialRetrievalError(provider="container-role", error_msg="refused")
    translated = translate(error, "s3://bucket")
    assert isinstance(translated, Unavailable)
    assert "nobody gives credentials" in translated.message


def test_a_range_beyond_the_end_tells_that_the_object_is_too_short() -> None:
    translated = translate(answer(416, "InvalidRange"), "s3://bucket/key")
    assert isinstance(translated, TooShort)
    assert translated.reason == "StorageError"
