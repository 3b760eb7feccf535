"""Calls of the operator to the API server: which of them count, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass

from shardedmodel_operator.cluster.calls import target_of

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
"""What writes, by its method."""


@dataclass(frozen=True)
class Call:
    """One request, as it came to the proxy."""

    method: str
    path: str
    """Without the query."""
    watches: bool = False

    @property
    def writes(self) -> bool:
        """Whether it may change something."""
        return self.method in VERBS

    @property
    def counts(self) -> bool:
        """Whether the operator dies at it: every write, and every look at one object.

        Lists and watches fill a cache that dies with the operator; what it does next is a call
        that counts.
        """
        return self.writes or (not self.watches and self._names_an_object)

    def __str__(self) -> str:
        verb = VERBS.get(self.method, "get")
        return f"{verb} {target_of(self.path).resource}"

    @property
    def _names_an_object(self) -> bool:
        _, found, rest = self.path.partition("/namespaces/")
        # namespace, collection, name
        return bool(found) and len(rest.split("/")) >= 3
