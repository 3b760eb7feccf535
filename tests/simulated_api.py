"""An API server in front of the simulated cluster, at whose n-th call the operator dies.

The reconciler, the cache and the recorder of Events are the real ones; only the HTTP client and
the pods' reports are not.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from shardedmodel_operator.cluster.cache import Key, ObjectCache
from shardedmodel_operator.cluster.events import EventRecorder
from shardedmodel_operator.cluster.resources import CHILDREN, MODELS, OPTIONAL, Resource
from shardedmodel_operator.errors import ObjectConflict, ObjectNotFound
from shardedmodel_operator.planning.observed import ReportTarget
from shardedmodel_operator.reconciling.reconciler import Reconciler
from shardedmodel_runtime.report import GroupReport, ShardProgress
from tests.simulated_cluster import SimulatedCluster

When = Literal["before", "after"]


class OperatorDied(Exception):
    """The operator's process ended in the middle of a call."""


@dataclass
class SimulatedApi:
    """The calls of ``cluster.client.Cluster`` that a reconciliation makes."""

    cluster: SimulatedCluster
    dies_at: int | None = None
    """Number of the call at which the operator dies, from 0; None: never."""
    when: When = "before"
    """Whether it dies before the call takes effect, or after, without its answer."""
    calls: int = 0
    made: list[str] = field(default_factory=list)
    """Kind and name of every object that was created, in order."""
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        """Answer a get."""
        self._count("before")
        found = self.cluster.objects.get((resource.kind, name))
        self._answer()
        return copy.deepcopy(found)

    def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Answer a server-side apply."""
        self._count("before")
        key = (manifest["kind"], manifest["metadata"]["name"])
        if key not in self.cluster.objects:
            self.made.append(" ".join(key))
        self.cluster.apply(manifest)
        self._answer()
        return copy.deepcopy(self.cluster.objects[key])

    def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Answer a delete."""
        self._count("before")
        found = self.cluster.objects.get((resource.kind, name))
        if found is not None and found["metadata"]["uid"] == uid:
            self.cluster.delete(resource.kind, name, uid)
        self._answer()

    def replace_status(self, model: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        """Answer a patch of the status."""
        self._count("before")
        self.cluster.builder.body["status"] = json.loads(json.dumps(status))
        self._answer()
        return copy.deepcopy(self.cluster.builder.body)

    def set_finalizer(self, model: dict[str, Any], finalizer: str, present: bool) -> dict[str, Any]:
        """Answer a patch of the finalizers."""
        self._count("before")
        self.cluster.set_finalizer(finalizer, present)
        self._answer()
        return copy.deepcopy(self.cluster.builder.body)

    def create(self, resource: Resource, body: dict[str, Any]) -> dict[str, Any]:
        """Answer the creation of an Event."""
        self._count("before")
        name = body["metadata"]["name"]
        if name in self.events:
            raise ObjectConflict(f"{name} exists")
        self.events[name] = body
        self._answer()
        return body

    def merge(
        self, resource: Resource, namespace: str, name: str, patch: dict[str, Any]
    ) -> dict[str, Any]:
        """Answer a merge patch of an Event."""
        self._count("before")
        if name not in self.events:
            raise ObjectNotFound(name)
        self.events[name] |= patch
        self._answer()
        return self.events[name]

    async def pull(
        self, targets: Sequence[ReportTarget]
    ) -> tuple[dict[str, ShardProgress], dict[str, GroupReport]]:
        """Pull the pods' reports; no call to the API server."""
        return dict(self.cluster.progress), dict(self.cluster.reports)

    def _count(self, when: When) -> None:
        if self.when == when and self.calls == self.dies_at:
            self.calls += 1
            raise OperatorDied

    def _answer(self) -> None:
        self._count("after")
        self.calls += 1


class Operator:
    """One life of an operator."""

    def __init__(self, api: SimulatedApi) -> None:
        self._api = api
        self._reconciler = Reconciler(
            cluster=api,  # type: ignore[arg-type]
            cache=ObjectCache(),
            events=EventRecorder(api, "test", lambda: api.cluster.now),  # type: ignore[arg-type]
            reports=api,  # type: ignore[arg-type]
            settings=api.cluster.settings,
            now=lambda: api.cluster.now,
        )

    def look(self) -> None:
        """Reconcile the model once, with everything seen that there is."""
        cluster, cache = self._api.cluster, ObjectCache()
        if cluster.model_is_gone:
            return
        metadata = cluster.builder.body["metadata"]
        metadata.setdefault("resourceVersion", "1")
        cache.put(MODELS, copy.deepcopy(cluster.builder.body))
        for resource in (*CHILDREN, *OPTIONAL):
            for body in cluster.of_kind(resource.kind):
                cache.put(resource, copy.deepcopy(body))
        reconciler = replace(self._reconciler, cache=cache)
        asyncio.run(reconciler.reconcile(Key(metadata["namespace"], metadata["name"])))
