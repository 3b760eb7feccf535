"""From an address to a store."""

from __future__ import annotations

from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.options import StoreOptions
from shardedmodel_runtime.storage.uri import parse_uri

__all__ = ["StoreOptions", "open_store"]


def open_store(uri: str, options: StoreOptions | None = None) -> ObjectStore:
    """Make the store behind ``uri``; nothing is asked of it yet.

    Args:
        uri: ``s3://bucket/prefix`` or ``file:///folder``.
        options: how to reach it; for files nothing of it matters.

    Raises:
        ConfigurationError: the address or the endpoint cannot be meant.
    """
    parsed = parse_uri(uri)
    if parsed.scheme == "file":
        return LocalStore(parsed)
    from shardedmodel_runtime.storage.s3 import S3Store  # boto3 takes half a second

    return S3Store(parsed, options or StoreOptions())
