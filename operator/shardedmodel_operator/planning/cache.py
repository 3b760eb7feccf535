"""The node's cache in rank pods: its volume, its flags, and the paths that an admin allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardedmodel_operator.api.problem import Problem
from shardedmodel_operator.api.spec import Cache, ShardedModelSpec

MOUNT_PATH = "/var/cache/shardedmodel"
"""Where the rank container finds it: the conventional place of caches (FHS 3.0, section 5.5)."""
VOLUME = "cache"


def cache_problem(spec: ShardedModelSpec, allowed: Sequence[str]) -> Problem | None:
    """What is wrong with the cache's path on nodes, if anything.

    Args:
        spec: of the model.
        allowed: absolute paths that caches may lie in or below.
    """
    path = spec.workers.cache.host_path if spec.workers.cache else ""
    if not path or any(f"{path}/".startswith(f"{root.rstrip('/')}/") for root in allowed):
        return None
    listed = ", ".join(allowed) or "none"
    return Problem(
        "spec.workers.cache.hostPath",
        f"{path!r} is not below a path that the operator allows ({listed}); use one of them, or "
        "have it added to SHARDEDMODEL_CACHE_HOST_PATHS (in the chart: cacheHostPaths)",
    )


def cache_volumes(cache: Cache | None) -> list[dict[str, Any]]:
    """Make the pod's volume."""
    if cache is None:
        return []
    if cache.claim_name:
        return [{"name": VOLUME, "persistentVolumeClaim": {"claimName": cache.claim_name}}]
    if cache.host_path:
        # It has to be there: a folder that the kubelet makes belongs to root.
        return [{"name": VOLUME, "hostPath": {"path": cache.host_path, "type": "Directory"}}]
    return [{"name": VOLUME, "emptyDir": {}}]


def cache_mounts(cache: Cache | None) -> list[dict[str, Any]]:
    """Make the container's mount."""
    return [{"name": VOLUME, "mountPath": MOUNT_PATH}] if cache else []


def cache_flags(cache: Cache | None) -> dict[str, object]:
    """Give the flags of ``shardedmodel rank``.

    The ranks keep the size, not the kubelet, which would evict their pod for it.
    """
    return {"cache": MOUNT_PATH, "cache_bytes": cache.size_bytes} if cache else {}
