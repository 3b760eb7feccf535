"""The models of a run: how they are changed, and what is seen of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.scale.api import Api, Json
from benchmarks.scale.paper import RANKS
from shardedmodel_operator.cluster.resources import MODELS

NAMESPACES = 10
"""Teams that share the cluster."""
DELETE_EVERY = 10
"""Every so many models the layout is to be deleted with the model."""

Name = tuple[str, str]
"""Namespace and name of a model."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A model as the watch last told of it."""

    at: float
    generation: int
    observed: int
    ready: bool
    revision: str
    ready_replicas: int
    gone: bool = False

    @property
    def current(self) -> bool:
        """Whether the status speaks of the spec."""
        return self.observed == self.generation


Wanted = Callable[[Seen], bool]


class Models:
    """Writes models as a user would, and waits for what becomes of them."""

    def __init__(self, api: Api, count: int) -> None:
        self._api = api
        self.names: list[Name] = [
            (f"team-{number % NAMESPACES}", f"model-{number:04}") for number in range(count)
        ]
        self.seen: dict[Name, Seen] = {}
        self._waiting: dict[Name, tuple[Wanted, asyncio.Future[Seen]]] = {}

    async def watch(self) -> None:
        """Follow all models, for ever."""
        await self._api.watch(MODELS, "", self._see)

    async def create(self, number: int) -> None:
        """Create one."""
        namespace, name = self.names[number]
        retention = "Retain" if (number + 1) % DELETE_EVERY else "Delete"
        spec = {
            "source": {"uri": f"s3://models/{name}", "revision": "1"},
            "parallelism": {"tensor": RANKS},
            "storage": {"uri": "s3://shards", "retention": retention},
            "workers": {"backend": "gloo"},
        }
        body = {
            "apiVersion": MODELS.api_version,
            "kind": MODELS.kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        await self._api.request("POST", MODELS.path(namespace), body)

    async def patch(self, number: int, spec: Json) -> Json:
        """Change the spec of one."""
        path = MODELS.path(*self.names[number])
        return await self._api.request("PATCH", path, {"spec": spec}, "merge-patch+json")

    async def delete(self, number: int) -> None:
        """Delete one."""
        await self._api.request("DELETE", MODELS.path(*self.names[number]))

    def expect(self, number: int, wanted: Wanted) -> asyncio.Future[Seen]:
        """What the first event that is ``wanted`` will tell; from now on, not before."""
        future: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self._waiting[self.names[number]] = (wanted, future)
        return future

    def _see(self, event: str, body: Json) -> None:
        metadata, status = body["metadata"], body.get("status") or {}
        name = metadata["namespace"], metadata["name"]
        seen = Seen(
            at=time.monotonic(),
            generation=metadata["generation"],
            observed=status.get("observedGeneration", -1),
            ready=_holds(status, "Ready"),
            revision=status.get("currentRevision", ""),
            ready_replicas=status.get("readyReplicas", 0),
            gone=event == "DELETED",
        )
        self.seen[name] = seen
        wanted, future = self._waiting.get(name, (None, None))
        if wanted is not None and future is not None and wanted(seen):
            del self._waiting[name]
            future.set_result(seen)


def _holds(status: Any, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in status.get("conditions", []))
