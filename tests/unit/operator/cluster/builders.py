"""Small Kubernetes objects, as the API server gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardedmodel_operator.planning import labels


def model_body(name: str = "llama", *, version: int = 1, uid: str = "model-uid") -> dict[str, Any]:
    """A valid ShardedModel."""
    return {
        "apiVersion": "shardedmodel.dev/v1alpha1",
        "kind": "ShardedModel",
        "metadata": {
            "namespace": "team-a",
            "name": name,
            "uid": uid,
            "generation": 1,
            "resourceVersion": str(version),
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {
            "source": {"uri": "s3://models/llama"},
            "parallelism": {"tensor": 2},
            "storage": {"uri": "s3://shards"},
            "workers": {"backend": "gloo"},
        },
        "status": {"observedGeneration": -1},
    }


def child_body(
    kind: str = "Job",
    name: str = "llama-shard",
    *,
    model: str | None = "llama",
    uid: str = "child-uid",
    version: int = 1,
    owner: str = "model-uid",
    extra_labels: Mapping[str, str] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """An object that belongs to a model (to none, when ``model`` is None)."""
    found = {} if model is None else labels.common(model, labels.ROLE_SHARD)
    versions = {"Job": "batch/v1", "StatefulSet": "apps/v1"}
    return {
        "apiVersion": versions.get(kind, "v1"),
        "kind": kind,
        "metadata": {
            "namespace": "team-a",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {**found, **(extra_labels or {})},
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "spec": {},
        **fields,
    }
