"""What S3's answers tell of an object, and the conditions that requests make of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardedmodel_runtime.errors import Unavailable


def whole_size(answer: Mapping[str, Any], where: str) -> int:
    """Bytes of the whole object; a server that ignores Range sends all of it.

    Raises:
        Unavailable: the answer does not tell; its headers end at one that is malformed.
    """
    size = str(answer.get("ContentRange", "")).rpartition("/")[2]
    if not size.isdecimal():
        size = str(answer.get("ContentLength", ""))
    if not size.isdecimal():
        raise Unavailable(f"{where}: the answer does not tell the object's length")
    return int(size)


def digest_of(answer: Mapping[str, Any]) -> str:
    """Give what changes when the object does."""
    return f"etag:{str(answer.get('ETag', '')).strip(chr(34))}"


def if_match(digest: str | None) -> dict[str, str]:
    """Make a condition of a digest; none of a weak ETag or a missing one (RFC 9110, 13.1.1)."""
    etag = (digest or "").removeprefix("etag:")
    return {} if not etag or etag.startswith("W/") else {"If-Match": f'"{etag}"'}
