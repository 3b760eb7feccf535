"""The Jobs that a model needs: the one that cuts its checkpoint, and the one that deletes it."""

from __future__ import annotations

from typing import Any

from shardedmodel_operator.api.resource import API_VERSION, KIND, ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.names import cleanup_name, job_name
from shardedmodel_operator.planning.objects import CLEANUP_CONTAINER, SHARD_CONTAINER
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_operator.planning.template import (
    credentials,
    flags,
    job_overrides,
    pod_template,
    restricted_container,
)
from shardedmodel_runtime.naming import canonical_json, content_hash
from shardedmodel_runtime.report import HTTP_PORT

CLEANUP_RETRIES = 3
"""Pods that a cleanup Job may replace, with the Job controller's own back-off of 10, 20, 40 s:
what a store that comes back within its deadline needs."""


def owner_reference(model: ShardedModel) -> dict[str, Any]:
    """Make the model own an object, so that deleting it deletes them.

    ``blockOwnerDeletion`` is false: true would need the right to set finalizers on models.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": model.name,
        "uid": model.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def shard_job(
    model: ShardedModel,
    spec: ShardedModelSpec,
    request: str,
    attempt: int,
    settings: PlanSettings,
) -> dict[str, Any]:
    """Make the Job of one attempt at ``request``.

    It never retries by itself: the planner decides when the next attempt is due.
    """
    own_labels = labels.common(model.name, labels.ROLE_SHARD) | {
        labels.REQUEST: request,
        labels.ATTEMPT: str(attempt),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(model.name, request, attempt),
            "namespace": model.namespace,
            "labels": own_labels | {labels.TEMPLATE: template_hash(spec, settings)},
            "ownerReferences": [owner_reference(model)],
        },
        "spec": {
            "backoffLimit": 0,
            **_completions(spec.sharding.workers),
            "template": _template(spec, own_labels, settings),
        },
    }


def _completions(workers: int) -> dict[str, Any]:
    """Fields of a Job whose pods share the work; none for one pod, which every server knows."""
    if workers == 1:
        return {}
    return {"completionMode": "Indexed", "completions": workers, "parallelism": workers}


def template_hash(spec: ShardedModelSpec, settings: PlanSettings) -> str:
    """Name the pods that an attempt would run, whatever its number."""
    return content_hash(_template(spec, {}, settings))


def cleanup_job(
    model: ShardedModel,
    spec: ShardedModelSpec,
    layout: str,
    settings: PlanSettings,
    seconds: int,
) -> dict[str, Any]:
    """Make the Job that deletes the layout of this hash; it ends by itself after ``seconds``."""
    own_labels = labels.common(model.name, labels.ROLE_CLEANUP)
    container = {
        **_plain_container(CLEANUP_CONTAINER, spec, settings),
        "args": [
            "delete-layout",
            f"{spec.storage.uri.rstrip('/')}/{layout}",
            *flags(
                storage_endpoint_url=spec.storage.endpoint_url,
                storage_region=spec.storage.region,
                termination_log="/dev/termination-log",
            ),
        ],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            *credentials(spec.storage.credentials_secret_ref, "STORAGE_"),
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": cleanup_name(model.name, layout),
            "namespace": model.namespace,
            "labels": own_labels,
            "ownerReferences": [owner_reference(model)],
        },
        "spec": {
            "backoffLimit": CLEANUP_RETRIES,
            "activeDeadlineSeconds": seconds,
            "template": _pod_template(spec, own_labels, container),
        },
    }


def _template(
    spec: ShardedModelSpec, own_labels: dict[str, str], settings: PlanSettings
) -> dict[str, Any]:
    container = {
        **_plain_container(SHARD_CONTAINER, spec, settings),
        "args": ["shard", spec.source.uri, spec.storage.uri, *_flags(spec)],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            *credentials(spec.source.credentials_secret_ref, "SOURCE_"),
            *credentials(spec.storage.credentials_secret_ref, "STORAGE_"),
        ],
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
    }
    return _pod_template(spec, own_labels, container)


def _pod_template(
    spec: ShardedModelSpec, own_labels: dict[str, str], container: dict[str, Any]
) -> dict[str, Any]:
    pod_spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    overrides = job_overrides(spec.workers.template, container["name"])
    return pod_template(own_labels, pod_spec, overrides)


def _plain_container(name: str, spec: ShardedModelSpec, settings: PlanSettings) -> dict[str, Any]:
    return {
        "name": name,
        "image": spec.workers.image or settings.runtime_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["shardedmodel"],
        "resources": {
            "requests": dict(settings.job_requests),
            "limits": dict(settings.job_limits),
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        **restricted_container(),
    }


def _flags(spec: ShardedModelSpec) -> list[str]:
    degrees = spec.parallelism
    rules = [rule.to_rule() for rule in spec.sharding.rules]
    given = flags(
        tensor=degrees.tensor,
        pipeline=degrees.pipeline,
        expert=degrees.expert,
        dtype=spec.sharding.dtype,
        revision=spec.source.revision,
        rules=canonical_json(rules).decode() if rules else "",
        source_endpoint_url=spec.source.endpoint_url,
        storage_endpoint_url=spec.storage.endpoint_url,
        source_region=spec.source.region,
        storage_region=spec.storage.region,
        workers=spec.sharding.workers if spec.sharding.workers > 1 else "",
        port=HTTP_PORT,
        termination_log="/dev/termination-log",
    )
    return given + (["--allow-unmatched"] if spec.sharding.allow_unmatched else [])
