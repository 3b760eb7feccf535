"""One prefix of a bucket, asked through boto3: signed rightly, and told in our errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from shardedmodel_runtime.errors import Unavailable, excerpt
from shardedmodel_runtime.storage.base import CountingStore, checked_key
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.s3_clock import ServerClock
from shardedmodel_runtime.storage.s3_errors import (
    error_code,
    http_status,
    may_be_expired,
    no_bucket,
    translate,
)
from shardedmodel_runtime.storage.uri import StoreUri

T = TypeVar("T")


class S3Bucket(CountingStore):
    """Makes the requests that have no content of their own.

    Args:
        uri: the bucket and the prefix.
        client: boto3's, which signs by ``clock``.
        clock: by which requests are signed.
        retry: when to ask again.
    """

    def __init__(self, uri: StoreUri, client: Any, clock: ServerClock, retry: RetryPolicy) -> None:
        super().__init__()
        self.uri = str(uri)
        self._bucket = uri.bucket
        self._prefix = f"{uri.path}/" if uri.path else ""
        self._client = client
        self._clock = clock
        self._retry = retry

    def _where(self, key: str) -> str:
        return f"{self.uri}/{key}" if key else self.uri

    def _call(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        """Make a request whose answer has no body of its own, and repeat it as needed."""
        return self._repeat(lambda: self._request(operation, key, **arguments))

    def _repeat(self, action: Callable[[], T]) -> T:
        return self._retry.run(action, self.repeated)

    def _request(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        """Make one request; ``Key=None`` among the arguments addresses the bucket itself."""
        arguments = {"Bucket": self._bucket, "Key": self._full_key(key, arguments), **arguments}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        try:
            return self._signed_rightly(getattr(self._client, operation), arguments)
        except ClientError as error:
            if http_status(error) == 409 and error_code(error) == "ConditionalRequestConflict":
                raise Unavailable(f"{self._where(key)}: written by two at once") from error
            if operation == "head_bucket" and http_status(error) == 404:
                raise no_bucket(self._where(key)) from error
            raise translate(error, self._where(key)) from error
        except (BotoCoreError, OSError) as error:
            raise translate(error, self._where(key)) from error
        except (ResponseParserError, ValueError) as error:  # a length that is no number, say
            raise Unavailable(
                f"{self._where(key)}: the answer cannot be understood: {excerpt(str(error))}"
            ) from error

    def _signed_rightly(
        self, call: Callable[..., dict[str, Any]], arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Make a request, and once more where its signature was wrong only for a while.

        Each request is signed by the server's clock, and by credentials that botocore renews when
        they are about to expire.
        """
        self.count(requests=1)
        try:
            return call(**arguments)
        except ClientError as error:
            if not self._clock.learn(error) and not may_be_expired(error):
                raise
        self.count(requests=1)
        return call(**arguments)

    def _full_key(self, key: str, arguments: Mapping[str, Any]) -> str | None:
        if "Key" in arguments:
            return None
        return self._prefix + checked_key(key)

    def _listed(self, root: str) -> Iterator[dict[str, Any]]:
        more: dict[str, Any] = {}
        while True:
            page = self._call("list_objects_v2", "", Key=None, Prefix=root, Delimiter="/", **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _unfinished(self) -> Iterator[tuple[str, str]]:
        more: dict[str, Any] = {}
        while True:
            page = self._call("list_multipart_uploads", "", Key=None, Prefix=self._prefix, **more)
            for item in page.get("Uploads", []):
                if item["Key"].startswith(self._prefix):  # some servers ignore Prefix
                    yield item["Key"][len(self._prefix) :], item["UploadId"]
            if not page.get("IsTruncated"):
                return
            more = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }
