"""The StatefulSets of the rank groups of one revision, and their pods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.cache import cache_flags, cache_mounts, cache_volumes
from shardedmodel_operator.planning.job import owner_reference
from shardedmodel_operator.planning.names import group_name
from shardedmodel_operator.planning.objects import RANK_CONTAINER
from shardedmodel_operator.planning.placement import exclusive_affinity
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_operator.planning.sharing import layout_label
from shardedmodel_operator.planning.template import (
    credentials,
    flags,
    pod_template,
    restricted_container,
)
from shardedmodel_runtime.naming import content_hash
from shardedmodel_runtime.report import HTTP_PORT, MASTER_PORT

GPU_RESOURCE = "nvidia.com/gpu"
STARTUP_PERIOD = 2
"""Seconds between startup probes: short against the interpreter's start, few against a load."""
LIVENESS_FAILURES = 6
"""Failed liveness probes (10 s apart) before a restart: a load that saturates the node's CPU and
disk delays answers by seconds, and a needless restart loads everything anew."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The finished layout that ranks load."""

    layout_hash: str
    uri: str
    max_rank_bytes: int


def revision_of(spec: ShardedModelSpec, layout: Layout, settings: PlanSettings) -> str:
    """Name what the rank pods would be: the layout and everything that shapes the pods."""
    return content_hash(
        {
            "layout": layout.layout_hash,
            "uri": layout.uri,
            "image": spec.workers.image or settings.runtime_image,
            # Without defaults: a release that adds a field must not roll every model.
            "workers": spec.workers.model_dump(mode="json", exclude_defaults=True),
            "storage": spec.storage.model_dump(
                mode="json", exclude_defaults=True, exclude={"retention"}
            ),
        }
    )


def group_size(spec: ShardedModelSpec) -> int:
    """Pods of one group."""
    return spec.parallelism.degrees().world_size // spec.workers.gpus_per_pod


def stateful_set(
    model: ShardedModel,
    spec: ShardedModelSpec,
    layout: Layout,
    revision: str,
    group: int,
    settings: PlanSettings,
) -> dict[str, Any]:
    """Make the StatefulSet of one group; suspended, it keeps its name and has no pods.

    ``OnDelete``: its template never changes, and if somebody changes it by hand, pods that hold a
    group together are not rolled one by one.
    """
    name = group_name(model.name, revision, group)
    selector = labels.group_selector(model.name, revision, group)
    own_labels = labels.common(model.name, labels.ROLE_RANK) | selector
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": name,
            "namespace": model.namespace,
            "labels": {
                **own_labels,
                labels.RANKS_PER_POD: str(spec.workers.gpus_per_pod),
                labels.LAYOUT: layout_label(layout.uri),
            },
            "ownerReferences": [owner_reference(model)],
        },
        "spec": {
            "replicas": 0 if spec.suspend else group_size(spec),
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": selector},
            "template": pod_template(
                own_labels,
                _pod_spec(spec, layout, name, settings)
                | _affinity(model, spec.workers.exclusive_topology, revision, group),
                spec.workers.template,
            ),
        },
    }


def _affinity(model: ShardedModel, key: str, revision: str, group: int) -> dict[str, Any]:
    return {"affinity": exclusive_affinity(model.name, revision, group, key)} if key else {}


def _pod_spec(
    spec: ShardedModelSpec, layout: Layout, name: str, settings: PlanSettings
) -> dict[str, Any]:
    shm = settings.shm_bytes * spec.workers.gpus_per_pod
    return {
        "terminationGracePeriodSeconds": 30,
        "containers": [_container(spec, layout, name, settings)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(shm)}},
            *cache_volumes(spec.workers.cache),
        ],
    }


def _container(
    spec: ShardedModelSpec, layout: Layout, name: str, settings: PlanSettings
) -> dict[str, Any]:
    return {
        "name": RANK_CONTAINER,
        "image": spec.workers.image or settings.runtime_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["shardedmodel"],
        "args": ["rank", layout.uri, *_flags(spec)],
        "env": [
            *(_field_env(*entry) for entry in FIELDS),
            {"name": "MASTER_ADDR", "value": f"{name}-0.{name}"},
            {"name": "MASTER_PORT", "value": str(MASTER_PORT)},
            {"name": "HOME", "value": "/tmp"},
            *credentials(spec.storage.credentials_secret_ref),
        ],
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "rendezvous", "containerPort": MASTER_PORT, "protocol": "TCP"},
        ],
        "resources": rank_resources(spec, layout, settings),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *cache_mounts(spec.workers.cache),
        ],
        **_probes(spec, layout, settings),
        **restricted_container(),
    }


FIELDS = (
    ("POD_NAME", "metadata.name"),
    ("POD_IP", "status.podIP"),
    ("NODE_NAME", "spec.nodeName"),
)
"""What the downward API tells a rank about itself."""


def _field_env(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _flags(spec: ShardedModelSpec) -> list[str]:
    return flags(
        endpoint_url=spec.storage.endpoint_url,
        region=spec.storage.region,
        world_size=spec.parallelism.degrees().world_size,
        local_ranks=spec.workers.gpus_per_pod,
        backend=spec.workers.backend,
        entrypoint=spec.workers.entrypoint,
        port=HTTP_PORT,
        termination_log="/dev/termination-log",
        **cache_flags(spec.workers.cache),
    )


def _probes(spec: ShardedModelSpec, layout: Layout, settings: PlanSettings) -> dict[str, Any]:
    """Make the three probes.

    Startup and liveness ask ``/healthz``, which a rank answers while it loads or waits for its
    group: a missing member must not restart those that hold their weights. The startup budget is
    sized from the bytes all the same, for entrypoints and images that answer late.
    """
    return {
        "startupProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": STARTUP_PERIOD,
            "timeoutSeconds": 2,
            "failureThreshold": math.ceil(start_budget(spec, layout, settings) / STARTUP_PERIOD),
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "http"},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": LIVENESS_FAILURES,
        },
    }


def start_budget(spec: ShardedModelSpec, layout: Layout, settings: PlanSettings) -> float:
    """Seconds that a pod may take to start: its bytes at the floor bandwidth, and a constant."""
    pod_bytes = layout.max_rank_bytes * spec.workers.gpus_per_pod
    return pod_bytes / settings.floor_bytes_per_second + settings.start_seconds


def rank_resources(
    spec: ShardedModelSpec, layout: Layout, settings: PlanSettings
) -> dict[str, dict[str, int | str]]:
    """Resources of the rank container: what the user gave, with requests and GPUs filled in.

    No memory limit is invented: a load that is a little larger than estimated should not die of
    an estimate. The request keeps the scheduler from crowding a node.
    """
    given = spec.workers.resources
    per_pod = spec.workers.gpus_per_pod
    memory = (layout.max_rank_bytes + settings.rank_overhead_bytes) * per_pod
    requests = dict(given.requests)
    if "memory" not in given.requests and "memory" not in given.limits:
        requests["memory"] = str(memory)
    if "cpu" not in given.requests and "cpu" not in given.limits:
        requests["cpu"] = settings.rank_cpu_request
    limits = dict(given.limits)
    if spec.workers.backend != "gloo" and not names_gpu([*given.requests, *given.limits]):
        limits[GPU_RESOURCE] = str(per_pod)
    return {"requests": requests} | ({"limits": limits} if limits else {})


def names_gpu(resources: list[str]) -> bool:
    """Whether a GPU is among the resources, of whatever vendor, whole or a MIG slice."""
    return any("gpu" in name or name.startswith("nvidia.com/") for name in resources)
