"""From botocore's exceptions to ours: who is to blame, and whether asking again helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
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
    excerpt,
)
from shardedmodel_runtime.storage.base import TooShort
from shardedmodel_runtime.storage.options import REGION
from shardedmodel_runtime.storage.uri import KEY_PAIR

_REGION_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "301",
    }
)
"""What S3 answers to a request for a bucket of another region."""
_REDIRECTS = frozenset({301, 302, 307})
"""How S3 sends requests on, by the bucket's own address while its name is young."""
_EXPIRED_CODES = frozenset({"RequestExpired", "ExpiredToken", "ExpiredTokenException"})
"""What a newer signature may cure."""
_BARE_REFUSAL = "400"
"""The code of botocore's for an answer to HEAD, which has no body to say that a token expired."""
_THROTTLE_CODES = frozenset({"SlowDown", "Throttling", "ThrottlingException"})
"""Fewer requests, please: sent with 503 mostly, by some servers with 400 or 429."""
CLOCK_CODES = _EXPIRED_CODES | {"RequestTimeTooSkewed"}
"""What the right time in a signature may cure."""
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "doesn't match")
"""How OpenSSL calls it, and urllib3 where the name differs; botocore keeps nothing but the text."""


class Unsupported(StorageError):
    """The server lacks an operation, or a condition on one; asking again does not help."""

    @property
    def reason(self) -> str:
        """Not worth a word of its own to users."""
        return StorageError.__name__


def error_code(error: ClientError) -> str:
    """The S3 error code; the HTTP status as text where the answer has no body (HEAD)."""
    return str(error.response.get("Error", {}).get("Code", ""))


def http_status(error: ClientError) -> int:
    """The HTTP status of the answer, 0 when unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def may_be_expired(error: ClientError) -> bool:
    """Whether signing anew, by credentials that were renewed meanwhile, may help."""
    return error_code(error) in _EXPIRED_CODES | {_BARE_REFUSAL}


def bucket_region(error: ClientError) -> str:
    """The region in which the refused bucket is, where the answer tells; empty otherwise."""
    if error_code(error) not in _REGION_CODES and http_status(error) not in _REDIRECTS:
        return ""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    # botocore's types leave out what S3 says beside code and message.
    told: Mapping[str, Any] = error.response.get("Error", {})
    region = str(headers.get("x-amz-bucket-region") or told.get("Region", ""))
    return region if REGION.fullmatch(region) else ""


def translate(error: BotoCoreError | ClientError | OSError, where: str) -> ShardedModelError:
    """Make our error of one of botocore's.

    Args:
        error: what botocore raised. An ``OSError`` is about files that it takes credentials from:
            those of connections are wrapped.
        where: the object's URI, for the message.
    """
    if isinstance(error, ClientError):
        return _translate_answer(error, where)
    if not isinstance(error, BotoCoreError):  # some of which are OSErrors too
        return ConfigurationError(
            f"{where}: a file of AWS's credentials cannot be read ({excerpt(str(error))}); mount "
            "it, or correct the variable AWS_* that names it"
        )
    if isinstance(error, CredentialRetrievalError):
        return Unavailable(f"{where}: nobody gives credentials ({excerpt(str(error))})")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return AccessDenied(f"{where}: no complete credentials found; give {KEY_PAIR}")
    if isinstance(error, (ConnectionError, HTTPClientError, IncompleteReadError)):
        return unreachable(str(error), where)
    if isinstance(error, ParamValidationError):
        return ConfigurationError(f"{where}: {excerpt(str(error))}")
    return StorageError(f"{where}: {excerpt(str(error))}")


def no_bucket(where: str) -> NotFound:
    """Make our error of a bucket that is not there."""
    return NotFound(f"{where}: the bucket does not exist", "create it or correct the uri")


def unreachable(text: str, where: str) -> StorageError:
    """Make our error of a server that did not answer, by what botocore says of it.

    A certificate that is not trusted stays so; everything else may be better at the next attempt.
    """
    if any(words in text for words in _UNTRUSTED):
        return StorageError(
            f"{where}: the server's certificate is not trusted ({excerpt(text)}); name its "
            "authority's file in AWS_CA_BUNDLE, and the server as its certificate does"
        )
    return Unavailable(f"{where}: {excerpt(text)}")


def _translate_answer(error: ClientError, where: str) -> ShardedModelError:
    code, status = error_code(error), http_status(error)
    answer = f"{code or status}: {excerpt(str(error.response.get('Error', {}).get('Message', '')))}"
    if code == "NoSuchBucket":
        return no_bucket(where)
    if status == 404:
        return NotFound(f"{where}: the object does not exist in its bucket")
    if status == 412:
        return SourceChanged(f"{where}: the object changed while it was being read")
    if status in (401, 403) and code not in CLOCK_CODES:
        return AccessDenied(
            f"{where}: access denied ({answer}); check the credentials, and that they may read "
            "and list the bucket (S3 denies access to a missing key where listing is denied)"
        )
    if code in CLOCK_CODES:
        return AccessDenied(f"{where}: the credentials or the clock are out of date ({answer})")
    if code in _REGION_CODES:
        return ConfigurationError(f"{where}: the bucket is in another region ({answer})")
    if status == 416:
        return TooShort(f"{where}: ends before the bytes that were asked for ({answer})")
    if status == 501:
        return Unsupported(f"{where}: the store does not know the operation ({answer})")
    if status in (429, 503) or code in _THROTTLE_CODES:
        return Throttled(f"{where}: the store asks for fewer requests ({answer})")
    if status >= 500 or status == 408 or code == "RequestTimeout":
        return Unavailable(f"{where}: the store is unavailable ({answer})")
    return StorageError(f"{where}: the store refused ({answer})")
