"""GETs of S3 objects and of ranges of them, with as little work per byte as Python can do.

boto3's ``get_object`` builds, signs and parses each request anew, and urllib3's ``readinto``
copies every byte once more: together they reached 0.67 to 0.90 of plain sockets. Here boto3 makes
one presigned URL for each object (its credentials, region and endpoint), botocore's own HTTP
session sends it (its proxies, certificates and connection pool), and the bytes go from the socket
to where they stay: 0.93 to 1.03 of plain sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from typing import Any

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.parsers import create_parser
from botocore.session import Session

from shardedmodel_runtime.errors import Unavailable, excerpt
from shardedmodel_runtime.storage.s3_answers import length_in
from shardedmodel_runtime.storage.s3_certificates import certificates
from shardedmodel_runtime.storage.s3_clock import ServerClock
from shardedmodel_runtime.storage.s3_errors import (
    bucket_region,
    may_be_expired,
    translate,
    unreachable,
)
from shardedmodel_runtime.storage.s3_logs import hide_signatures, without_query
from shardedmodel_runtime.storage.s3_proxies import proxies
from shardedmodel_runtime.storage.s3_urls import SignedUrls

CONNECT_TIMEOUT_SECONDS = 10.0
"""Longest time to a connection, for all requests to a store. Linux repeats a lost SYN after 1, 3
and 7 s, so that three may be lost."""
READ_TIMEOUT_SECONDS = 30.0
"""Longest silence on a connection; a range that stalls so long is asked for again."""
RANGE_CONNECTIONS = 256
"""Connections kept for ranges: one for each read that may be in flight (``MAX_CONCURRENCY``
of the loader, which stands above). What is beyond, for second requests, is closed after use."""
ERROR_BYTES_LIMIT = 64 * 1024
"""Bytes read of an answer that is an error: a short XML text."""


class RangeAnswer:
    """An answer whose body is still on its way.

    ``etag`` and ``content_range`` are its headers, empty where they are missing; ``size`` is how
    many bytes the server says that it sends, None where it does not.
    """

    def __init__(self, raw: Any, where: str) -> None:
        self._raw = raw
        self._where = where
        # The response of http.client under urllib3's: urllib3's readinto copies every byte.
        self._body = raw._fp
        self.etag = str(raw.headers.get("ETag", ""))
        self.size = length_in(str(raw.headers.get("Content-Length", "")))
        self.content_range = str(raw.headers.get("Content-Range", "no range"))

    def readinto(self, into: memoryview) -> int:
        """Fill ``into`` as far as bytes come before the body's end; gives their number.

        Raises:
            Unavailable: the connection broke off.
        """
        try:
            return int(self._body.readinto(into))
        except (OSError, HTTPException, ValueError) as error:  # ValueError: closed meanwhile
            raise Unavailable(
                f"{self._where}: the answer broke off: {excerpt(str(error))}"
            ) from error

    def stop(self) -> None:
        """Make a ``readinto`` in another thread return; the connection is of no use then."""
        with suppress(OSError, RuntimeError, ValueError):  # the body ended meanwhile
            self._raw.shutdown()

    def release(self) -> None:
        """Keep the connection for another request; the body was read to its end."""
        self._raw.release_conn()

    def close(self) -> None:
        """Close the connection: a body that was not read to its end is still on its way."""
        self._raw.close()


class RangeReader:
    """Sends GETs for one bucket.

    Args:
        urls: of its objects.
        session: botocore's; knows certificates.
        clock: of the server.
        read_timeout_seconds: longest silence on a connection.

    Raises:
        ConfigurationError: what the environment names as the proxy is no address.
    """

    def __init__(
        self,
        urls: SignedUrls,
        session: Session,
        clock: ServerClock,
        read_timeout_seconds: float,
    ) -> None:
        hide_signatures()
        self._urls = urls
        self._clock = clock
        self._http = URLLib3Session(
            verify=certificates(session, urls.endpoint_url),
            proxies=proxies(urls.endpoint_url),
            timeout=(CONNECT_TIMEOUT_SECONDS, read_timeout_seconds),
            max_pool_connections=RANGE_CONNECTIONS,
        )
        self._parser = create_parser("rest-xml")

    def get(
        self, key: str, headers: dict[str, str], where: str, asks: Callable[[], None]
    ) -> RangeAnswer:
        """Ask for an object, or a range of it.

        Args:
            key: the whole key.
            headers: ``Range`` for a part of it, and perhaps ``If-Match``.
            where: how messages name the object.
            asks: called before each request: a second one has a better signature.

        Raises:
            StorageError: the store refused, or could not be reached.
        """
        asks()
        try:
            return self._send(key, headers, where)
        except ClientError as error:
            if not self._may_sign_better(error):
                raise translate(error, where) from error
        self._urls.forget(key)
        asks()
        try:
            return self._send(key, headers, where)
        except ClientError as error:
            raise translate(error, where) from error

    def close(self) -> None:
        """Close the kept connections."""
        self._http.close()

    def _may_sign_better(self, error: ClientError) -> bool:
        """Whether the refusal tells what was wrong with a signature, or a newer one may do."""
        if region := bucket_region(error):
            self._urls.move_to(region)
            return True
        return self._clock.learn(error) or may_be_expired(error)

    def _send(self, key: str, headers: dict[str, str], where: str) -> RangeAnswer:
        try:
            request = AWSRequest("GET", self._urls.of(key), headers=headers, stream_output=True)
            answer = self._http.send(request.prepare())
        except (ConnectionError, HTTPClientError) as error:
            raise unreachable(without_query(str(error)), where) from None  # its cause holds the URL
        except (BotoCoreError, OSError) as error:
            raise translate(error, where) from error
        if answer.status_code not in (200, 206):
            raise self._refusal(answer, where)
        if _lost_headers(answer.raw):
            answer.raw.close()
            raise Unavailable(f"{where}: the answer's headers are malformed, and some are lost")
        return RangeAnswer(answer.raw, where)

    def _refusal(self, answer: Any, where: str) -> ClientError:
        body = RangeAnswer(answer.raw, where)
        text = bytearray(ERROR_BYTES_LIMIT)
        size = body.readinto(memoryview(text))
        body.close()
        status = answer.status_code
        # A status from 301 on is parsed as an error by every AWS protocol.
        fields = {"status_code": status, "headers": answer.headers, "body": bytes(text[:size])}
        return ClientError(self._parser.parse(fields, None), "GetObject")


def _lost_headers(raw: Any) -> bool:
    """Whether a line that is no header hides what an answer tells.

    What comes behind such a line is lost, which urllib3 only warns of. Without its ETag an answer
    would look like another object's.
    """
    message = getattr(raw._fp, "msg", None)  # of http.client, which knows what was malformed
    told = "ETag" in raw.headers and "Content-Length" in raw.headers
    return not told and bool(getattr(message, "defects", ()))
