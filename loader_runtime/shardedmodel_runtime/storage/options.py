"""How a store is reached: endpoint, region and credentials, which never show in a message."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from shardedmodel_runtime.errors import AccessDenied, ConfigurationError, excerpt
from shardedmodel_runtime.storage.uri import KEY_PAIR

KEY_VARIABLE = "AWS_ACCESS_KEY_ID"
SECRET_VARIABLE = "AWS_SECRET_ACCESS_KEY"
TOKEN_VARIABLE = "AWS_SESSION_TOKEN"
"""The standard names, which are also the keys of the user's Secret."""
OLD_TOKEN_VARIABLE = "AWS_SECURITY_TOKEN"
"""What boto3 also takes for a session token, and before the newer name."""

MAX_PORT = 65535
"""Of TCP: a port has 16 bits (RFC 9293)."""
_ENDPOINT = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:(?P<port>[0-9]{1,5}))?(/[!-~]*)?"
)
"""A server by name or address, perhaps behind a path."""
REGION = re.compile(r"(?![0-9]+$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
"""A region's name is part of a server's: botocore takes no other."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """One set of S3 credentials; hidden from ``repr`` and hence from tracebacks and logs."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to reach a store.

    Args:
        endpoint_url: an S3-compatible server; empty: AWS.
        region: empty: from boto3's own chain, ``us-east-1`` where that knows none.
        credentials: None: boto3's own chain (variables, profile, workload identity).

    Raises:
        ConfigurationError: the endpoint is no plain URL of a server, or the region no name.
    """

    endpoint_url: str = ""
    region: str = ""
    credentials: Credentials | None = None

    def __post_init__(self) -> None:
        if "@" in self.endpoint_url:  # never repeated: what stands before it is likely a key
            raise ConfigurationError(f"endpointUrl: holds credentials; give {KEY_PAIR}")
        if self.endpoint_url and not _is_server(self.endpoint_url):
            raise ConfigurationError(
                f"endpointUrl: {excerpt(self.endpoint_url)!r} is no server's address; "
                "use https://host[:port]"
            )
        if self.region and not REGION.fullmatch(self.region):
            raise ConfigurationError(
                f"region: {excerpt(self.region)!r} is no region's name; use letters, digits and "
                "hyphens, such as eu-central-1"
            )

    @classmethod
    def from_environment(
        cls,
        prefix: str = "",
        *,
        endpoint_url: str = "",
        region: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Take credentials from the variables ``<prefix>AWS_ACCESS_KEY_ID`` and so on.

        A process that uses two stores has two sets, told apart by their prefixes. Where neither
        variable with the prefix is set, boto3's own chain decides, which begins with the
        variables without it.

        Raises:
            AccessDenied: one of key and secret is set without the other.
        """
        found = os.environ if environ is None else environ
        key = found.get(prefix + KEY_VARIABLE, "")
        secret = found.get(prefix + SECRET_VARIABLE, "")
        if bool(key) != bool(secret):
            missing = SECRET_VARIABLE if key else KEY_VARIABLE
            raise AccessDenied(
                f"{prefix}{missing} is not set while its counterpart is; give both, {KEY_PAIR}"
            )
        token = found.get(prefix + OLD_TOKEN_VARIABLE) or found.get(prefix + TOKEN_VARIABLE, "")
        credentials = Credentials(key, secret, token) if key else None
        return cls(endpoint_url=endpoint_url, region=region, credentials=credentials)


def _is_server(url: str) -> bool:
    found = _ENDPOINT.fullmatch(url)
    return found is not None and int(found["port"] or 0) <= MAX_PORT
