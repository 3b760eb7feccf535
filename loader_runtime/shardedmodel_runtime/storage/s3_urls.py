"""Addresses that carry a signature: one for each object, signed by boto3's client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

SIGNATURE_SECONDS = 900
"""How long a URL is valid: longer than it is used, with room for a clock that is a few minutes off,
and no longer, since who sees it may read the object."""
RENEWAL_SECONDS = 300.0
"""Age at which a URL is signed anew, so that renewed credentials are used soon: botocore renews
temporary ones 10 to 15 minutes before they expire."""


class SignedUrls:
    """Presigned URLs for GETs from one bucket; any thread may ask.

    Args:
        client: boto3's S3 client.
        client_in: makes another of the same for a region.
        bucket: whose objects are read.
    """

    def __init__(self, client: Any, client_in: Callable[[str], Any], bucket: str) -> None:
        self._client = client
        self._client_in = client_in
        self._bucket = bucket
        self._lock = threading.Lock()
        self._urls: dict[str, tuple[str, float]] = {}

    @property
    def endpoint_url(self) -> str:
        """The server, or AWS's for the region."""
        return str(self._client.meta.endpoint_url)

    def of(self, key: str) -> str:
        """Give a URL that is valid for a while yet."""
        now = time.monotonic()
        with self._lock:
            url, signed_at = self._urls.get(key, ("", 0.0))
            client = self._client
        if url and now - signed_at < RENEWAL_SECONDS:
            return url
        params = {"Bucket": self._bucket, "Key": key}
        url = str(
            client.generate_presigned_url("get_object", Params=params, ExpiresIn=SIGNATURE_SECONDS)
        )
        with self._lock:
            self._urls[key] = (url, now)
        return url

    def forget(self, key: str) -> None:
        """Sign the object's next URL anew."""
        with self._lock:
            self._urls.pop(key, None)

    def move_to(self, region: str) -> None:
        """Sign for another region from now on, at its address where no endpoint is given.

        boto3 does so of itself for requests that it sends, but not for URLs that it signs.
        """
        with self._lock:
            if self._client.meta.region_name != region:
                self._client = self._client_in(region)
                self._urls.clear()
