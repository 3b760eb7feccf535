"""What a call to the API server was, as RBAC and the metrics name it."""

from __future__ import annotations

from typing import NamedTuple

NO_ANSWER = "none"
"""The code of a call that was never answered."""


class ApiCall(NamedTuple):
    """One kind of call; what calls are counted by."""

    verb: str
    """As RBAC names it: get, list, watch, create, update, patch, delete."""
    resource: str
    """Plural, with the subresource: ``shardedmodels/status``; empty: what the server serves."""
    code: str
    """HTTP status of the answer, or ``NO_ANSWER``."""


class Target(NamedTuple):
    """What a URL path addresses."""

    namespace: str | None
    """None: all namespaces."""
    resource: str
    """Plural, with the subresource."""


def target_of(path: str) -> Target:
    """Say what ``path`` addresses; the reverse of ``Resource.path``.

    Args:
        path: such as ``/apis/batch/v1/namespaces/team-a/jobs/llama``, without a query.
    """
    parts = path.strip("/").split("/")
    rest = parts[3:] if parts[0] == "apis" else parts[2:]
    namespace = None
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    # collection, object, subresource
    return Target(namespace, "/".join(rest[::2]))
