"""What is in the namespace at one moment, as the API server tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.scenario import DEMO_NAMESPACE
from tests.devcluster.api import Api

Object = Mapping[str, Any]

MODEL_PATH = f"/apis/shardedmodel.dev/v1alpha1/namespaces/{DEMO_NAMESPACE}/shardedmodels"
PATHS = {
    "StatefulSet": f"/apis/apps/v1/namespaces/{DEMO_NAMESPACE}/statefulsets",
    "ControllerRevision": f"/apis/apps/v1/namespaces/{DEMO_NAMESPACE}/controllerrevisions",
    "Job": f"/apis/batch/v1/namespaces/{DEMO_NAMESPACE}/jobs",
    "Service": f"/api/v1/namespaces/{DEMO_NAMESPACE}/services",
    "Pod": f"/api/v1/namespaces/{DEMO_NAMESPACE}/pods",
    "ConfigMap": f"/api/v1/namespaces/{DEMO_NAMESPACE}/configmaps",
    "PersistentVolumeClaim": f"/api/v1/namespaces/{DEMO_NAMESPACE}/persistentvolumeclaims",
    "ShardedModel": MODEL_PATH,
}
"""Where each kind is listed. Owners come before what they own, and models last, so that what a
slow look misses is found missing, and not taken for an orphan."""
SURROUNDINGS = ("kube-root-ca.crt", "seaweedfs")
"""Names, or beginnings of names, of what was there before the soak."""


@dataclass(frozen=True, slots=True)
class State:
    """All objects of the namespace that were not there before, by kind."""

    objects: Mapping[str, Sequence[Object]]

    @classmethod
    def read(cls, api: Api) -> State:
        """List every kind once."""
        return cls({kind: _ours(api.get(path)["items"]) for kind, path in PATHS.items()})

    def of(self, kind: str) -> Sequence[Object]:
        """All objects of a kind."""
        return self.objects.get(kind, ())

    def owned(self, kind: str, owner: Object) -> list[Object]:
        """Objects of a kind that ``owner`` controls, by name."""
        uid = owner["metadata"]["uid"]
        return sorted((o for o in self.of(kind) if owner_uid(o) == uid), key=name_of)


def _ours(items: Sequence[Object]) -> list[Object]:
    return [item for item in items if not name_of(item).startswith(SURROUNDINGS)]


def name_of(item: Object) -> str:
    """Name of an object."""
    return str(item["metadata"]["name"])


def label_of(item: Object, key: str) -> str:
    """One of the product's labels, without its domain; empty where it is absent."""
    labels = item["metadata"].get("labels") or {}
    return str(labels.get(f"shardedmodel.dev/{key}", ""))


def owner_uid(item: Object) -> str:
    """UID of the object that controls this one; empty where none does."""
    owners = item["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def is_leaving(item: Object) -> bool:
    """Whether it was asked to go and is still there."""
    return "deletionTimestamp" in item["metadata"]


def condition(item: Object, kind: str) -> Object:
    """One condition of an object's status; empty where it is absent."""
    conditions = (item.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})
