"""The proxies to a store: boto3's choice, seen to be addresses."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from botocore.utils import get_environ_proxies

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.storage.options import MAX_PORT

_PROXY = re.compile(
    r"((https?:)?//)?([^\s/?#]*@)?(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)(:(?P<port>[0-9]{1,5}))?/?"
)
"""What botocore takes: a server, perhaps with a scheme and with credentials before it."""


def proxies(endpoint_url: str) -> dict[str, str]:
    """Give the proxy for each scheme, as the variables of the environment name them.

    What is wrong is found here. At each request it would look like a server that cannot be reached,
    and libraries would repeat it with the password that is likely to be in it.

    Args:
        endpoint_url: of the server.

    Raises:
        ConfigurationError: the one that requests to the server would go through is no address.
    """
    found: dict[str, str] = get_environ_proxies(endpoint_url)
    scheme = urlsplit(endpoint_url).scheme
    address = found.get(scheme, "")
    parts = _PROXY.fullmatch(address)
    if address and (parts is None or int(parts["port"] or 0) > MAX_PORT):
        raise ConfigurationError(
            f"{_named_by(scheme)}: is no address of a proxy; use http://[user:password@]host:port, "
            "with what is special in the password as %XX"
        )
    return found


def _named_by(scheme: str) -> str:
    """What names the proxy for a scheme: in lower case before upper, as Python looks for it."""
    name = f"{scheme}_proxy"
    return name if os.environ.get(name) else name.upper()
