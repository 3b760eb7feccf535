"""S3 and what speaks its protocol: content by ``s3_ranges.py``, all else through boto3."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from urllib3.exceptions import HTTPError

from shardedmodel_runtime.errors import (
    AccessDenied,
    NotFound,
    SourceChanged,
    StorageError,
    Unavailable,
    excerpt,
)
from shardedmodel_runtime.storage.base import ObjectInfo, checked_key, too_large, too_short
from shardedmodel_runtime.storage.options import StoreOptions
from shardedmodel_runtime.storage.reading import Reading
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.s3_answers import digest_of, if_match, length_in, whole_size
from shardedmodel_runtime.storage.s3_bucket import S3Bucket
from shardedmodel_runtime.storage.s3_client import make_client, new_session
from shardedmodel_runtime.storage.s3_clock import ServerClock
from shardedmodel_runtime.storage.s3_errors import Unsupported, http_status
from shardedmodel_runtime.storage.s3_ranges import READ_TIMEOUT_SECONDS, RangeAnswer, RangeReader
from shardedmodel_runtime.storage.s3_urls import SignedUrls
from shardedmodel_runtime.storage.s3_writer import S3Writer, abort_upload
from shardedmodel_runtime.storage.uri import StoreUri

logger = logging.getLogger(__name__)

SLICE_BYTES = 2 * 1024 * 1024
"""Read from the socket between two looks whether the bytes are still wanted. Its pages are made
while bytes wait in the socket: over a link of 10 Gb/s that took 0.92 of the time of making all of
16 MiB before asking, 1 and 4 MiB took 0.93, 512 KiB 0.95, smaller ones more than all at once."""

MIN_PART_BYTES = 5 * 1024 * 1024
"""Smallest part but the last that S3 takes (S3 user guide, multipart upload limits)."""
MAX_PART_BYTES = 16 * 1024 * 1024
"""Beyond it parts no longer save requests worth their memory; equals the checksums' block."""


class S3Store(S3Bucket):
    """Objects under one prefix of one bucket.

    Args:
        uri: the bucket and the prefix.
        options: endpoint, region and credentials.
        retry: when to ask again.
        read_timeout_seconds: longest silence on a connection.
        clock: by which requests are signed; None: one that learns the server's.

    Raises:
        ConfigurationError: the endpoint is no URL, or its proxy no address.
    """

    part_limits = (MIN_PART_BYTES, MAX_PART_BYTES)

    def __init__(
        self,
        uri: StoreUri,
        options: StoreOptions,
        retry: RetryPolicy | None = None,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
        clock: ServerClock | None = None,
    ) -> None:
        clock = clock or ServerClock()

        def client_of(session: Session, options: StoreOptions) -> Any:
            client = make_client(session, options, read_timeout_seconds)
            clock.sign_requests_of(client)
            return client

        def client_in(region: str) -> Any:
            # boto3 takes each session of botocore's once.
            return client_of(new_session(), replace(options, region=region))

        session = new_session()
        super().__init__(uri, client_of(session, options), clock, retry or RetryPolicy())
        urls = SignedUrls(self._client, client_in, uri.bucket)
        self._ranges = RangeReader(urls, session, clock, read_timeout_seconds)

    def describe(self, key: str) -> ObjectInfo:
        """Describe one object (HEAD)."""

        def attempt() -> ObjectInfo:
            answer = self._request("head_object", key)
            return ObjectInfo(key, whole_size(answer, self._where(key)), digest_of(answer))

        try:
            return self._repeat(attempt)
        except NotFound:
            self._call("head_bucket", key, Key=None)  # HEAD cannot tell which of the two is missing
            raise

    def require_root(self) -> None:
        """Ask for the bucket; whether its objects may be touched shows when they are."""
        try:
            self._call("head_bucket", "", Key=None)
        except AccessDenied:  # credentials that may not list may still read and write
            logger.debug("%s: may not be described", self.uri)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Describe the objects directly in folder ``prefix``, page by page."""
        root = self._prefix + prefix
        return [
            ObjectInfo(item["Key"][len(self._prefix) :], int(item["Size"]), digest_of(item))
            for page in self._listed(root)
            for item in page.get("Contents", [])
            if item["Key"] != root
        ]

    def folders(self) -> Sequence[str]:
        """Names of the prefixes directly below this one, page by page."""
        return [
            item["Prefix"][len(self._prefix) : -1]
            for page in self._listed(self._prefix)
            for item in page.get("CommonPrefixes", [])
        ]

    def read(self, key: str, *, limit: int, digest: str | None = None) -> bytes:
        """Read a small object whole."""

        def attempt() -> bytes:
            with self._answer(key, if_match(digest)) as answer:
                if answer.size is None:
                    raise StorageError(f"{self._where(key)}: the server does not say its length")
                if answer.size > limit:
                    raise too_large(self._where(key), answer.size, limit)
                data = bytearray(answer.size)
                for _ in self._received(key, answer, memoryview(data), Reading()):
                    pass
            return bytes(data)

        return self._repeat(attempt)

    def read_head(self, key: str, limit: int) -> tuple[ObjectInfo, bytes]:
        """Describe an object and read its beginning: the answer to a ranged GET tells both."""

        def attempt() -> tuple[ObjectInfo, bytes]:
            answer = self._request("get_object", key, Range=f"bytes=0-{limit - 1}")
            info = ObjectInfo(key, whole_size(answer, self._where(key)), digest_of(answer))
            data = bytearray(min(info.size, limit))
            self._drain(key, answer["Body"], memoryview(data))
            answer["Body"].close()
            return info, bytes(data)

        try:
            return self._repeat(attempt)
        except StorageError as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError) or http_status(cause) != 416:
                raise
            return self.describe(key), b""  # an empty object has no range

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        """Fill ``into`` from ``start`` on; a repetition begins behind the bytes that came."""
        reading = reading or Reading()
        filled, stop = 0, start + len(into)

        def attempt() -> None:
            nonlocal filled
            headers = {"Range": f"bytes={start + filled}-{stop - 1}", **if_match(digest)}
            with self._answer(key, headers) as answer:
                self._check_range(key, answer, start + filled, stop, digest)
                with reading.landing(digest_of({"ETag": answer.etag}), answer.stop):
                    for count in self._received(key, answer, into[filled:], reading):
                        filled += count

        def repeated(error: Unavailable) -> None:
            reading.failed(error)
            self.repeated(error)

        if into:
            self._retry.run(attempt, repeated, reading.sleep)

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write a small object (PUT), with ``If-None-Match: *`` when ``if_absent``."""
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            self._call("put_object", key, Body=data, **condition)
        except SourceChanged:  # 412: how S3 says that it is there
            return False
        except Unsupported:
            return self._write_if_not_there(key, data)
        return True

    def _write_if_not_there(self, key: str, data: bytes) -> bool:
        """The best that servers without conditional writes allow: look first."""
        try:
            self.describe(key)
        except NotFound:
            return self.write(key, data)
        return False

    def open_writer(self, key: str, size: int, part_bytes: int) -> S3Writer:
        """Begin an object; more than one part makes a multipart upload."""
        return S3Writer(self._call, key, size, part_bytes, self.describe)

    def delete(self, key: str) -> None:
        """Delete one object."""
        self._call("delete_object", key)

    def drop_unfinished(self) -> None:
        """Abort the multipart uploads under the prefix."""
        try:
            for key, upload in self._unfinished():
                abort_upload(self._call, key, upload)
        except StorageError as error:  # credentials that may not list uploads may still write
            logger.warning("%s: unfinished uploads cannot be looked for: %s", self.uri, error)

    def close(self) -> None:
        """Close the kept connections."""
        self._client.close()
        self._ranges.close()

    @contextmanager
    def _answer(self, key: str, headers: dict[str, str]) -> Iterator[RangeAnswer]:
        """Ask for an object or a range of it; its connection is kept when all of it was read."""
        answer = self._ranges.get(
            self._prefix + checked_key(key),
            headers,
            self._where(key),
            lambda: self.count(requests=1),
        )
        try:
            yield answer
        except BaseException:
            answer.close()
            raise
        answer.release()

    def _received(
        self, key: str, answer: RangeAnswer, into: memoryview, reading: Reading
    ) -> Iterator[int]:
        """Fill ``into``; gives the number of bytes each time that some have come."""
        filled = 0
        while filled < len(into):
            piece = into[filled : filled + SLICE_BYTES]
            reading.coming(piece)
            count = answer.readinto(piece)
            reading.check()
            if count == 0:
                raise self._ended_early(key, len(into) - filled)
            filled += count
            self.count(received=count)
            yield count

    def _check_range(
        self, key: str, answer: RangeAnswer, begin: int, stop: int, digest: str | None
    ) -> None:
        """See that the server did what it was asked: some ignore Range, some If-Match."""
        if digest is not None and digest_of({"ETag": answer.etag}) != digest:
            raise SourceChanged(f"{self._where(key)}: the object changed while it was being read")
        span, _, size = answer.content_range.partition("/")
        if span == f"bytes {begin}-{stop - 1}":
            return
        whole = length_in(size)
        if whole is not None and whole < stop:
            raise too_short(self._where(key), whole, stop)
        raise Unavailable(
            f"{self._where(key)}: bytes {begin}-{stop - 1} asked for, "
            f"{excerpt(answer.content_range)} received"
        )

    def _drain(self, key: str, body: Any, into: memoryview) -> None:
        """Fill ``into`` from the body of one of boto3's answers."""
        filled = 0
        try:
            while filled < len(into):
                count = body.readinto(into[filled:])
                if count == 0:
                    raise self._ended_early(key, len(into) - filled)
                filled += count
                self.count(received=count)
        except (BotoCoreError, HTTPError, OSError) as error:
            body.close()
            raise Unavailable(f"{self._where(key)}: the answer broke off: {error}") from error

    def _ended_early(self, key: str, missing: int) -> Unavailable:
        return Unavailable(f"{self._where(key)}: the answer ended {missing} bytes early")
