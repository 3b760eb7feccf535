"""Fluent builders of the API server's objects, as the operator's tests need them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from shardedmodel_operator.api.resource import ShardedModel, spec_request_hash
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_runtime.report import (
    Failure,
    GroupReport,
    RankReport,
    RankState,
    ReplicatedSummary,
    ShardSummary,
)

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
SETTINGS = PlanSettings(runtime_image="registry.example/runtime:1")
LAYOUT_HASH = "0123456789abcdef0123"
SPEC: dict[str, Any] = {
    "source": {
        "uri": "s3://models/tiny",
        "endpointUrl": "http://s3.storage:8333",
        "credentialsSecretRef": {"name": "models-s3"},
    },
    "parallelism": {"tensor": 2},
    "storage": {
        "uri": "s3://shards",
        "endpointUrl": "http://s3.storage:8333",
        "credentialsSecretRef": {"name": "shards-s3"},
    },
    "workers": {"backend": "gloo"},
}


def stamp(at: datetime) -> str:
    """Write a time as Kubernetes does."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(count: float) -> timedelta:
    """Shorthand for tests that move the clock."""
    return timedelta(seconds=count)


class ModelBuilder:
    """A ShardedModel: a valid one, unless told otherwise."""

    def __init__(self, name: str = "tiny") -> None:
        self.body: dict[str, Any] = {
            "apiVersion": "shardedmodel.dev/v1alpha1",
            "kind": "ShardedModel",
            "metadata": {
                "name": name,
                "namespace": "models",
                "uid": f"uid-{name}",
                "generation": 1,
            },
            "spec": copy.deepcopy(SPEC),
        }

    def with_spec(self, **fields: Any) -> Self:
        """Replace whole fields of the spec."""
        self.body["spec"].update(fields)
        return self

    def with_workers(self, **fields: Any) -> Self:
        """Set fields of ``spec.workers``."""
        self.body["spec"].setdefault("workers", {}).update(fields)
        return self

    def with_retention(self, retention: str) -> Self:
        """Say what becomes of the layout."""
        self.body["spec"]["storage"]["retention"] = retention
        return self

    def with_parallelism(self, **degrees: int) -> Self:
        """Set degrees."""
        self.body["spec"]["parallelism"].update(degrees)
        return self

    def without(self, field: str) -> Self:
        """Remove a field of the spec."""
        del self.body["spec"][field]
        return self

    def with_status(self, status: dict[str, Any]) -> Self:
        """Set what status says."""
        self.body["status"] = status
        return self

    def at_generation(self, generation: int) -> Self:
        """Set the generation."""
        self.body["metadata"]["generation"] = generation
        return self

    def deleting(self, at: datetime = NOW) -> Self:
        """Mark it as on its way out."""
        self.body["metadata"]["deletionTimestamp"] = stamp(at)
        return self

    def build(self) -> ShardedModel:
        """Parse it, as the operator does."""
        return ShardedModel.from_object(copy.deepcopy(self.body))

    @property
    def request(self) -> str:
        """Request hash of its spec."""
        return spec_request_hash(ShardedModelSpec.model_validate(self.body["spec"]))


class ObjectBuilder:
    """Any object with an owner."""

    def __init__(
        self, kind: str, name: str, owner_uid: str, own_labels: dict[str, str] | None = None
    ) -> None:
        self.body: dict[str, Any] = {
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": "models",
                "uid": f"uid-{kind}-{name}",
                "resourceVersion": "1",
                "creationTimestamp": stamp(NOW),
                "labels": {labels.MODEL: "tiny"} | (own_labels or {}),
                "ownerReferences": [{"uid": owner_uid, "controller": True}],
            },
            "spec": {},
            "status": {},
        }

    def deleting(self) -> Self:
        """Mark it as on its way out."""
        self.body["metadata"]["deletionTimestamp"] = stamp(NOW)
        return self


class JobBuilder(ObjectBuilder):
    """A pre-shard Job."""

    def __init__(self, request: str, attempt: int = 1, owner_uid: str = "uid-tiny") -> None:
        super().__init__(
            "Job",
            f"tiny-shard-{request[:8]}-{attempt}",
            owner_uid,
            {
                labels.ROLE: labels.ROLE_SHARD,
                labels.REQUEST: request,
                labels.ATTEMPT: str(attempt),
            },
        )

    def ended(self, kind: str, at: datetime = NOW, reason: str = "", message: str = "") -> Self:
        """Let it end: ``Complete`` or ``Failed``."""
        self.body["status"]["conditions"] = [
            {"type": "Suspended", "status": "False"},
            {
                "type": kind,
                "status": "True",
                "reason": reason,
                "message": message,
                "lastTransitionTime": stamp(at),
            },
        ]
        return self


class PodBuilder(ObjectBuilder):
    """A pod with one container."""

    def __init__(
        self,
        name: str,
        owner_uid: str,
        container: str = "rank",
        own_labels: dict[str, str] | None = None,
    ) -> None:
        super().__init__("Pod", name, owner_uid, own_labels)
        self.body["status"] = {"phase": "Pending", "conditions": []}
        self._container: dict[str, Any] = {
            "name": container,
            "image": "registry.example/runtime:1",
            "restartCount": 0,
            "state": {},
        }
        self.body["status"]["containerStatuses"] = [self._container]

    def running(self, ready: bool = False, ip: str = "10.1.0.7") -> Self:
        """Let its container run."""
        self.body["spec"]["nodeName"] = "node-a"
        self.body["status"] |= {"phase": "Running", "podIP": ip}
        self._container["state"] = {"running": {}}
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        self.body["status"]["conditions"] = [condition]
        return self

    def waiting(self, reason: str, message: str = "") -> Self:
        """Let its container wait."""
        self._container["state"] = {"waiting": {"reason": reason, "message": message}}
        return self

    def unschedulable(self, message: str | None) -> Self:
        """Let the scheduler find no node."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        if message is not None:
            condition["message"] = message
        self.body["status"]["conditions"] = [condition]
        self.body["status"]["containerStatuses"] = []
        return self

    def ended(
        self,
        exit_code: int,
        message: str = "",
        reason: str = "Error",
        at: datetime = NOW,
        state: str = "state",
    ) -> Self:
        """Let its container end, now (``state``) or before the present start (``lastState``)."""
        self._container[state] = {
            "terminated": {
                "exitCode": exit_code,
                "reason": reason,
                "message": message,
                "finishedAt": stamp(at),
            }
        }
        return self

    def restarted(self, times: int) -> Self:
        """Count restarts."""
        self._container["restartCount"] = times
        return self

    def failed(self, reason: str | None = None, message: str = "") -> Self:
        """Let the whole pod fail."""
        self.body["status"] |= {"phase": "Failed", "message": message}
        if reason:
            self.body["status"]["reason"] = reason
        return self


def summary(**fields: Any) -> ShardSummary:
    """What a pre-shard Job tells at its end."""
    values: dict[str, Any] = {
        "layout_hash": LAYOUT_HASH,
        "manifest_uri": f"s3://shards/{LAYOUT_HASH}/manifest.json",
        "objects": 3,
        "bytes": 91_000_000,
        "source_bytes": 90_000_000,
        "source_bytes_read": 90_000_000,
        "max_rank_bytes": 50_000_000,
        "seconds": 4.0,
        "peak_memory_bytes": 300_000_000,
        "unmatched": ReplicatedSummary(tensors=0, bytes=0),
    }
    return ShardSummary(**(values | fields))


def failure(reason: str, message: str = "it broke", retryable: bool = False) -> str:
    """A termination message of ours."""
    return Failure(reason=reason, message=message, retryable=retryable).to_json()


def group_report(
    name: str, world: int = 2, state: RankState = "ready", per_pod: int = 1, **fields: Any
) -> GroupReport:
    """What rank 0 of the group ``name`` reports; rank n takes n + 1 seconds."""
    holding = state in ("loaded", "ready")
    ranks = [
        RankReport(
            rank=rank,
            pod=f"{name}-{rank // per_pod}",
            node="node-a",
            state=state,
            bytes=1_000_000_000,
            bytes_done=1_000_000_000 if holding else 500_000_000,
            bytes_read=1_000_000_000 if holding else 500_000_000,
            seconds=rank + 1.0,
            device="cpu",
            peak_memory_bytes=1_250_000_000,
        )
        for rank in range(world)
    ]
    values: dict[str, Any] = {
        "layout_hash": LAYOUT_HASH,
        "world_size": world,
        "formed": state == "ready",
        "complete": True,
        "join_seconds": 0.5,
        "ranks": ranks,
    }
    return GroupReport(**(values | fields))
