"""Pod templates: the restricted base that Job and rank pods share, and the user's overrides.

Overrides are merged as Kubernetes' strategic merge does: objects key by key, lists of named things
by their key, other lists replaced, ``null`` removes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardedmodel_operator.api.stores import SecretReference
from shardedmodel_operator.planning.objects import RANK_CONTAINER

USER = 65532
"""The conventional non-root user of distroless images; both images have it."""
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""``patchMergeKey`` of the lists in Kubernetes' PodSpec that are merged and not replaced."""
JOB_POD_FIELDS = (
    "affinity",
    "dnsConfig",
    "dnsPolicy",
    "hostAliases",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
    "volumes",
)
"""Overrides of the pod that the pre-shard Job takes as well: it reads the same volumes with the
same identity, on the nodes that have them."""
JOB_CONTAINER_FIELDS = ("env", "envFrom", "imagePullPolicy", "volumeMounts")
"""Overrides of the container ``rank`` that the Job's container takes as well."""
CREDENTIAL_KEYS = (
    ("AWS_ACCESS_KEY_ID", False),
    ("AWS_SECRET_ACCESS_KEY", False),
    ("AWS_SESSION_TOKEN", True),
)
"""Keys of a credentials Secret, and whether each may be absent."""


def merge(base: Any, override: Any, merge_key: str | None = None) -> Any:
    """Merge an override into a value strategically; neither argument is changed."""
    if isinstance(base, dict) and isinstance(override, Mapping):
        merged = dict(base)
        for key, value in override.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(base.get(key), value, MERGE_KEYS.get(key))
        return merged
    if isinstance(base, list) and isinstance(override, list) and merge_key:
        return _merge_list(base, override, merge_key)
    return override


def _merge_list(base: list[Any], override: list[Any], key: str) -> list[Any]:
    merged = {item[key]: item for item in base}
    for item in override:
        name = item.get(key)
        merged[name] = merge(merged.get(name), item)
    return list(merged.values())


def pod_template(
    labels: Mapping[str, str],
    pod_spec: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Put together a pod template; the operator's own labels win over everything."""
    base = {"metadata": {"labels": {}}, "spec": {**restricted_pod(), **pod_spec}}
    template: dict[str, Any] = merge(base, overrides)
    template["metadata"]["labels"].update(labels)
    return template


def job_overrides(overrides: Mapping[str, Any], container: str) -> dict[str, Any]:
    """Those of the user's overrides that the pre-shard Job takes, for its container."""
    spec = overrides.get("spec", {})
    taken = {field: spec[field] for field in JOB_POD_FIELDS if field in spec}
    for item in spec.get("containers", []):
        if item["name"] == RANK_CONTAINER:
            shared = {field: item[field] for field in JOB_CONTAINER_FIELDS if field in item}
            taken["containers"] = [{"name": container, **shared}]
    return {"metadata": overrides.get("metadata", {}), "spec": taken}


def restricted_pod() -> dict[str, Any]:
    """What makes a pod pass the ``restricted`` Pod Security Standard, and takes its API token."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def restricted_container() -> dict[str, Any]:
    """The same for a container, with where it leaves its last words."""
    return {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }


def credentials(secret: SecretReference | None, prefix: str = "") -> list[dict[str, Any]]:
    """Environment with the keys of a credentials Secret, each name after ``prefix``."""
    if secret is None:
        return []
    return [
        {
            "name": prefix + key,
            "valueFrom": {
                "secretKeyRef": {"name": secret.name, "key": key}
                | ({"optional": True} if optional else {})
            },
        }
        for key, optional in CREDENTIAL_KEYS
    ]


def flags(**values: object) -> list[str]:
    """Command-line flags ``--name value``, those with an empty value left out."""
    return [
        word
        for name, value in values.items()
        if value != ""
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
