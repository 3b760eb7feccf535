"""Addresses of stores: ``s3://bucket/prefix`` and ``file:///folder``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from shardedmodel_runtime.errors import ConfigurationError, excerpt
from shardedmodel_runtime.storage.base import is_plain_key

KEY_PAIR = (
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, in a cluster by a Secret"
)
"""How messages name what credentials are given by; addresses hold none."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
"""Names that S3 has ever allowed, old regions and compatible servers included."""


@dataclass(frozen=True, slots=True)
class StoreUri:
    """A store's address in parts.

    ``path`` is the prefix without slashes at its ends (s3), or the absolute folder (file).
    """

    scheme: Literal["s3", "file"]
    bucket: str
    path: str

    def __str__(self) -> str:
        if self.scheme == "file":
            return f"file://{self.path}"
        return f"s3://{self.bucket}/{self.path}" if self.path else f"s3://{self.bucket}"


def parse_uri(text: str) -> StoreUri:
    """Take a store's address apart.

    Raises:
        ConfigurationError: another scheme, no bucket, a relative folder, or a path with ``..``.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("s3", "file"):
        raise ConfigurationError(
            f"uri: {excerpt(text)!r} has an unsupported scheme; use s3://bucket/prefix or "
            "file:///folder"
        )
    return _parse_s3(text, rest) if scheme == "s3" else _parse_file(text, rest)


def _parse_s3(text: str, rest: str) -> StoreUri:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:  # never repeated: what stands before it is likely a key
        raise ConfigurationError(f"uri: holds credentials before '@'; give {KEY_PAIR}")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(f"uri: {excerpt(text)!r} names no bucket; use s3://bucket/prefix")
    if prefix and not is_plain_key(prefix):
        raise ConfigurationError(
            f"uri: {excerpt(text)!r} has an empty, '.' or '..' part in its prefix; remove it"
        )
    return StoreUri("s3", bucket, prefix)


def _parse_file(text: str, rest: str) -> StoreUri:
    if not rest.startswith("/"):
        raise ConfigurationError(
            f"uri: {excerpt(text)!r} is not absolute; use file:///folder with three slashes"
        )
    path = rest.strip("/")
    if path and not is_plain_key(path):
        raise ConfigurationError(
            f"uri: {excerpt(text)!r} has an empty, '.' or '..' part in its path; remove it"
        )
    return StoreUri("file", "", f"/{path}")


def last_part(uri: str) -> str:
    """Give what an address ends in: the name of a layout's folder, say."""
    return uri.rstrip("/").rpartition("/")[2]


def join_uri(root: str, *parts: str) -> str:
    """Append path segments to a store's address."""
    return "/".join([root.rstrip("/"), *parts])
