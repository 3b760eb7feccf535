"""What S3's answers tell of an object, and the conditions that requests make of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardedmodel_runtime.errors import Unavailable

LENGTH_DIGITS = 19
"""Most that a length has: that of an object is below 2**63, and Python refuses 4,300 digits."""


def length_in(header: str) -> int | None:
    """Bytes that a header tells; None where it tells no length that an object can have."""
    return int(header) if header.isdecimal() and len(header) <= LENGTH_DIGITS else None


def whole_size(answer: Mapping[str, Any], where: str) -> int:
    """Bytes of the whole object; a server that ignores Range sends all of it.

    Raises:
        Unavailable: the answer does not tell; its headers end at one that is malformed.
    """
    size = length_in(str(answer.get("ContentRange", "")).rpartition("/")[2])
    if size is None:
        size = length_in(str(answer.get("ContentLength", "")))
    if size is None:
        raise Unavailable(f"{where}: the answer does not tell the object's length")
    return size


def digest_of(answer: Mapping[str, Any]) -> str:
    """Give what changes when the object does."""
    return f"etag:{str(answer.get('ETag', '')).strip(chr(34))}"


def if_match(digest: str | None) -> dict[str, str]:
    """Make a condition of a digest; none of a weak ETag or a missing one (RFC 9110, 13.1.1)."""
    etag = (digest or "").removeprefix("etag:")
    return {} if not etag or etag.startswith("W/") else {"If-Match": f'"{etag}"'}
