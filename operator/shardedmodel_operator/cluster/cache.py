"""What the cluster holds of our kinds, as the watches, our own writes and the lists told it.

The watches fill it, and nobody reads it before they told of everything that is there. It is not
kopf's own index because two things are needed beside: an object that we have just written must be
seen by the next reconciliation even if its event is late, and an object whose deletion fell into a
gap between two watches must disappear; kopf's index forgets only what it sees deleted.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from shardedmodel_operator.cluster.resources import (
    BUDGETS,
    JOBS,
    MODELS,
    PODS,
    POLICIES,
    SERVICES,
    STATEFULSETS,
    Object,
    Resource,
)
from shardedmodel_operator.planning import objects
from shardedmodel_operator.planning.observed import Observed

TOMBSTONES = 4096
"""Deleted objects that are remembered so that a late event or a late answer cannot revive them;
uids are never used again, and the answers in question are seconds old."""


class Key(NamedTuple):
    """Names one ShardedModel."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def key_of(resource: Resource, body: Object) -> Key | None:
    """The model that ``body`` is or belongs to; None when it names none."""
    name = body["metadata"]["name"] if resource == MODELS else objects.model_name(body)
    return Key(body["metadata"]["namespace"], name) if name else None


def version(body: Object) -> int:
    """The ``resourceVersion`` as a number, to tell the newer of two states of one object.

    Kubernetes documents that versions of one kind compare as integers (KEP-5504); every server
    that stores in etcd has always given out such numbers.
    """
    return int(body["metadata"]["resourceVersion"])


def _without_managed_fields(body: Object) -> Object:
    metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
    return {**body, "metadata": metadata}


TRIM: Mapping[Resource, Callable[[Object], Any]] = {
    MODELS: _without_managed_fields,
    JOBS: objects.Job.from_object,
    STATEFULSETS: objects.StatefulSet.from_object,
    SERVICES: objects.Service.from_object,
    PODS: objects.Pod.from_object,
    POLICIES: objects.Meta.from_object,
    BUDGETS: objects.Meta.from_object,
}
"""What is kept of each kind: models as they are, children as the planner sees them."""


def _uri(body: Object, field: str) -> str:
    return str(((body.get("spec") or {}).get(field) or {}).get("uri", "")).rstrip("/")


def _layouts(body: Object) -> set[str]:
    """Hashes of the layouts that a model's status names."""
    told = (body.get("status") or {}).get("sharding") or {}
    return {told[name] for name in ("layoutHash", "unfinishedLayout") if told.get(name)}


def _may_share(one: Object, other: Object) -> bool:
    """Whether two models may have, or come to, one layout: what is sure needs them parsed."""
    if _uri(one, "storage") != _uri(other, "storage"):
        return False
    return _uri(one, "source") == _uri(other, "source") or not _layouts(one).isdisjoint(
        _layouts(other)
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    key: Key
    version: int
    value: Any


class ObjectCache:
    """Objects by kind and model; to be used from one thread (the event loop's)."""

    def __init__(self) -> None:
        self._entries: dict[Resource, dict[str, _Entry]] = defaultdict(dict)
        self._uids: dict[tuple[Resource, Key], set[str]] = defaultdict(set)
        self._buried: OrderedDict[str, int] = OrderedDict()
        self._doomed: OrderedDict[str, None] = OrderedDict()
        self._leaving: set[str] = set()
        """Uids of models that are on their way out: few, and asked for at every look."""

    def put(self, resource: Resource, body: Object) -> None:
        """Keep ``body``, trimmed, unless a newer state of it or its end is known.

        Objects that name no model are not kept.
        """
        uid, key = body["metadata"]["uid"], key_of(resource, body)
        known = self._entries[resource].get(uid)
        if self._is_buried(body) or (known is not None and known.version > version(body)):
            return
        self._buried.pop(uid, None)
        self._drop(resource, uid)
        if key is not None:
            self._entries[resource][uid] = _Entry(key, version(body), TRIM[resource](body))
            self._uids[resource, key].add(uid)
            if resource == MODELS and "deletionTimestamp" in body["metadata"]:
                self._leaving.add(uid)

    def remove(self, resource: Resource, uid: str, at: int) -> None:
        """Forget an object that had gone at version ``at``.

        Only states up to that version stay forgotten: a watch with a selector calls an object
        deleted that has merely lost its label, and it comes back when the label does.
        """
        self._drop(resource, uid)
        self._buried[uid] = max(at, self._buried.get(uid, 0))
        while len(self._buried) > TOMBSTONES:
            self._buried.popitem(last=False)

    def doom(self, resource: Resource, uid: str) -> None:
        """Forget an object that the server was told to delete, before its event tells of it.

        Events of other kinds may come first: a group that is being made anew must not count as
        ready because its pods' last event overtook the end of their StatefulSet. Only a state in
        which it is on its way out brings it back.
        """
        self._drop(resource, uid)
        self._doomed[uid] = None
        while len(self._doomed) > TOMBSTONES:
            self._doomed.popitem(last=False)

    def model(self, key: Key) -> Object | None:
        """The model of this name; the newest, should the former one's end be unknown yet."""
        bodies: list[Object] = self._values(MODELS, key)
        return max(bodies, key=version, default=None)

    def models(self) -> Collection[Key]:
        """The key of every model."""
        return {entry.key for entry in self._entries[MODELS].values()}

    def neighbours(self, body: Object, *, leaving: bool = False) -> list[Object]:
        """Other models that may share a layout, or those of them that go alone.

        Only they are parsed: with all that keep layouts at one address, the deletion of a thousand
        models parsed each for each, which took half of the operator's CPU and twice its memory.
        """
        own = body["metadata"]["uid"]
        models = self._entries[MODELS]
        uids = self._leaving if leaving else models
        found = [models[uid].value for uid in uids if uid != own]
        return [other for other in found if _may_share(body, other)]

    def neighbouring_sets(self, key: Key) -> list[tuple[str, objects.Meta]]:
        """StatefulSets of other models, each with its namespace."""
        entries = self._entries[STATEFULSETS].values()
        return [(e.key.namespace, e.value.meta) for e in entries if e.key != key]

    def observe(self, key: Key) -> Observed:
        """What belongs to a model, without reports."""
        return Observed(
            jobs=tuple(self._values(JOBS, key)),
            pods=tuple(self._values(PODS, key)),
            stateful_sets=tuple(self._values(STATEFULSETS, key)),
            services=tuple(self._values(SERVICES, key)),
            network_policies=tuple(self._values(POLICIES, key)),
            disruption_budgets=tuple(self._values(BUDGETS, key)),
        )

    def versions(self, resource: Resource) -> dict[str, int]:
        """Version of each object of a kind by its uid."""
        return {uid: entry.version for uid, entry in self._entries[resource].items()}

    def knows(self, resource: Resource, body: Object) -> bool:
        """Whether this state of an object, a newer one or its end is known, or of no interest."""
        entry = self._entries[resource].get(body["metadata"]["uid"])
        held = entry is not None and entry.version >= version(body)
        return held or self._is_buried(body) or key_of(resource, body) is None

    def owner(self, resource: Resource, uid: str) -> Key | None:
        """The model that an object is or belongs to; None when it is not held."""
        entry = self._entries[resource].get(uid)
        return entry.key if entry is not None else None

    def _is_buried(self, body: Object) -> bool:
        """Whether the object is known to have gone, or to be going, after this state of it."""
        metadata = body["metadata"]
        if metadata["uid"] in self._doomed and "deletionTimestamp" not in metadata:
            return True
        return version(body) <= self._buried.get(metadata["uid"], -1)

    def _values(self, resource: Resource, key: Key) -> list[Any]:
        entries = self._entries[resource]
        return [entries[uid].value for uid in sorted(self._uids.get((resource, key), ()))]

    def _drop(self, resource: Resource, uid: str) -> None:
        self._leaving.discard(uid)
        entry = self._entries[resource].pop(uid, None)
        if entry is None:
            return
        uids = self._uids[resource, entry.key]
        uids.discard(uid)
        if not uids:
            del self._uids[resource, entry.key]
