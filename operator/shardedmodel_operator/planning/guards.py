"""Objects that guard a model's pods: NetworkPolicies and PodDisruptionBudgets.

They are small, anybody may ask for other ones at any time, and the server fills in what a user's
part of them leaves out. So they are compared by a hash of what was asked for, which they bear.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.job import owner_reference
from shardedmodel_operator.planning.objects import Meta
from shardedmodel_operator.planning.result import ObjectRef
from shardedmodel_runtime.naming import content_hash

GuardKind = Literal["NetworkPolicy", "PodDisruptionBudget"]
API_VERSIONS: dict[GuardKind, str] = {
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
}


def guard(
    model: ShardedModel, kind: GuardKind, name: str, role: str, spec: dict[str, Any]
) -> dict[str, Any]:
    """Make a guard that bears the hash of its ``spec``."""
    return {
        "apiVersion": API_VERSIONS[kind],
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": model.namespace,
            "labels": labels.common(model.name, role) | {labels.CONTENT: content_hash(spec)},
            "ownerReferences": [owner_reference(model)],
        },
        "spec": spec,
    }


def changed(
    model: ShardedModel, wanted: Iterable[dict[str, Any]], there: Sequence[Meta]
) -> list[dict[str, Any]]:
    """Those of the ``wanted`` that are not ``there`` as they are wanted."""
    known = {meta.name: meta for meta in _own(model, there)}
    return [manifest for manifest in wanted if not _is_there(manifest, known)]


def unwanted(
    model: ShardedModel, kind: GuardKind, wanted: Iterable[dict[str, Any]], there: Sequence[Meta]
) -> list[ObjectRef]:
    """Those of the model's that are ``there`` and not ``wanted`` any more."""
    names = {manifest["metadata"]["name"] for manifest in wanted}
    return [
        ObjectRef(API_VERSIONS[kind], kind, model.namespace, meta.name, meta.uid)
        for meta in _own(model, there)
        if meta.name not in names
    ]


def _own(model: ShardedModel, there: Sequence[Meta]) -> list[Meta]:
    return [meta for meta in there if meta.owner_uid == model.uid and not meta.deleting]


def _is_there(manifest: dict[str, Any], known: dict[str, Meta]) -> bool:
    metadata = manifest["metadata"]
    found = known.get(metadata["name"])
    content = metadata["labels"][labels.CONTENT]
    return found is not None and found.labels.get(labels.CONTENT) == content
