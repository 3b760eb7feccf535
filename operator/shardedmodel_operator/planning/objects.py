"""Kubernetes objects, trimmed to what the planner looks at.

``from_object`` takes the API server's JSON, so that indices keep kilobytes and not megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shardedmodel_operator.planning import labels

Body = Mapping[str, Any]
SHARD_CONTAINER = "shard"
CLEANUP_CONTAINER = "cleanup"
RANK_CONTAINER = "rank"


def parse_time(text: str | None) -> datetime | None:
    """Parse Kubernetes' timestamps (RFC 3339, in UTC)."""
    return datetime.fromisoformat(text) if text else None


def format_time(at: datetime) -> str:
    """Write a time as Kubernetes does: RFC 3339, in UTC, whole seconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def model_name(body: Body) -> str | None:
    """Name of the model that an object belongs to; None for objects that are not ours."""
    found: str | None = (body["metadata"].get("labels") or {}).get(labels.MODEL)
    return found


@dataclass(frozen=True, slots=True)
class Meta:
    """Identity of an object."""

    name: str
    uid: str
    labels: Mapping[str, str]
    created_at: datetime | None = None
    owner_uid: str = ""
    gone_by: datetime | None = None
    """When an object that is on its way out should have gone: a pod's grace is counted in."""

    @classmethod
    def from_object(cls, body: Body) -> Meta:
        """Trim ``metadata``; the owner is the controlling one."""
        metadata = body["metadata"]
        owners = metadata.get("ownerReferences") or []
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            labels={
                k: v
                for k, v in (metadata.get("labels") or {}).items()
                if k.startswith("shardedmodel.dev/")
            },
            created_at=parse_time(metadata.get("creationTimestamp")),
            owner_uid=next((o["uid"] for o in owners if o.get("controller")), ""),
            gone_by=parse_time(metadata.get("deletionTimestamp")),
        )

    @property
    def deleting(self) -> bool:
        """Whether it is on its way out."""
        return self.gone_by is not None

    @property
    def revision(self) -> str:
        """Revision label, or empty."""
        return self.labels.get(labels.REVISION, "")

    @property
    def group(self) -> int:
        """Group label, or -1."""
        return int(self.labels.get(labels.GROUP, "-1"))

    @property
    def role(self) -> str:
        """Role label, or empty."""
        return self.labels.get(labels.ROLE, "")


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container ended."""

    exit_code: int
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None

    @classmethod
    def from_state(cls, state: Body | None) -> Termination | None:
        """Trim ``terminated`` of a container's state."""
        terminated = (state or {}).get("terminated")
        if not terminated:
            return None
        return cls(
            exit_code=terminated.get("exitCode", 0),
            reason=terminated.get("reason") or "",
            message=terminated.get("message") or "",
            finished_at=parse_time(terminated.get("finishedAt")),
        )


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """One container of a pod. Waiting when ``waiting_reason`` is set, else running or ended."""

    name: str
    image: str = ""
    running: bool = False
    waiting_reason: str = ""
    waiting_message: str = ""
    terminated: Termination | None = None
    last_terminated: Termination | None = None
    restarts: int = 0

    @classmethod
    def from_object(cls, status: Body) -> ContainerStatus:
        """Trim one entry of ``containerStatuses``."""
        state = status.get("state") or {}
        waiting = state.get("waiting") or {}
        return cls(
            name=status["name"],
            image=status.get("image") or "",
            running="running" in state,
            waiting_reason=waiting.get("reason") or "",
            waiting_message=waiting.get("message") or "",
            terminated=Termination.from_state(state),
            last_terminated=Termination.from_state(status.get("lastState")),
            restarts=status.get("restartCount", 0),
        )


@dataclass(frozen=True, slots=True)
class Pod:
    """A Job's or a rank's pod."""

    meta: Meta
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    node: str = ""
    ip: str = ""
    ready: bool = False
    unschedulable: str = ""
    containers: tuple[ContainerStatus, ...] = ()

    @classmethod
    def from_object(cls, body: Body) -> Pod:
        """Trim a pod. ``unschedulable`` is the scheduler's message while it finds no node."""
        status = body.get("status") or {}
        conditions = {c["type"]: c for c in status.get("conditions") or []}
        scheduled = conditions.get("PodScheduled", {})
        unschedulable = scheduled.get("status") == "False"
        return cls(
            meta=Meta.from_object(body),
            phase=status.get("phase") or "Pending",
            reason=status.get("reason") or "",
            message=status.get("message") or "",
            node=(body.get("spec") or {}).get("nodeName") or "",
            ip=status.get("podIP") or "",
            ready=conditions.get("Ready", {}).get("status") == "True",
            unschedulable=(scheduled.get("message") or "no node fits") if unschedulable else "",
            containers=tuple(
                ContainerStatus.from_object(c)
                for field_name in ("initContainerStatuses", "containerStatuses")
                for c in status.get(field_name) or []
            ),
        )

    @property
    def ordinal(self) -> int:
        """Ordinal in its StatefulSet, from the name: the label exists from Kubernetes 1.28 only."""
        return int(self.meta.name.rpartition("-")[2])

    def container(self, name: str) -> ContainerStatus | None:
        """The container of this name, once the kubelet has told of it."""
        return next((c for c in self.containers if c.name == name), None)

    @property
    def ended(self) -> bool:
        """Whether a container of it has ended."""
        return any(c.terminated is not None for c in self.containers)

    @property
    def running(self) -> bool:
        """Whether its container runs, so that its report can be pulled."""
        return bool(self.ip) and any(c.running for c in self.containers)


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at pre-sharding."""

    meta: Meta
    workers: int = 1
    """Pods that share its work."""
    succeeded: bool = False
    failed: bool = False
    reason: str = ""
    message: str = ""
    finished_at: datetime | None = None

    @classmethod
    def from_object(cls, body: Body) -> Job:
        """Trim a Job to its outcome."""
        meta, workers = Meta.from_object(body), body["spec"].get("completions") or 1
        for condition in (body.get("status") or {}).get("conditions") or []:
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return cls(
                    meta=meta,
                    workers=workers,
                    succeeded=condition["type"] == "Complete",
                    failed=condition["type"] == "Failed",
                    reason=condition.get("reason") or "",
                    message=condition.get("message") or "",
                    finished_at=parse_time(condition.get("lastTransitionTime")),
                )
        return cls(meta=meta, workers=workers)

    @property
    def finished(self) -> bool:
        """Whether it ended, well or not."""
        return self.succeeded or self.failed

    @property
    def cuts(self) -> bool:
        """Whether it cuts the checkpoint; another one deletes a layout."""
        return self.meta.role == labels.ROLE_SHARD

    @property
    def request(self) -> str:
        """Request hash that it works on."""
        return self.meta.labels.get(labels.REQUEST, "")

    @property
    def template(self) -> str:
        """Hash of its pod template."""
        return self.meta.labels.get(labels.TEMPLATE, "")

    @property
    def attempt(self) -> int:
        """Its number among the Jobs of its request."""
        return int(self.meta.labels.get(labels.ATTEMPT, "0"))


@dataclass(frozen=True, slots=True)
class StatefulSet:
    """One replica group of one revision."""

    meta: Meta
    replicas: int = 1

    @classmethod
    def from_object(cls, body: Body) -> StatefulSet:
        """Trim a StatefulSet; readiness is read from the pods themselves."""
        return cls(meta=Meta.from_object(body), replicas=body["spec"].get("replicas", 1))

    @property
    def ranks_per_pod(self) -> int:
        """Ranks of one pod."""
        return int(self.meta.labels.get(labels.RANKS_PER_POD, "1"))

    def who(self, pod: Pod) -> str:
        """The ranks that a pod of it holds, for messages."""
        first = pod.ordinal * self.ranks_per_pod
        last = first + self.ranks_per_pod - 1
        return f"rank {first}" if first == last else f"ranks {first}-{last}"


@dataclass(frozen=True, slots=True)
class Service:
    """A group's headless Service or the model's own."""

    meta: Meta
    selector: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_object(cls, body: Body) -> Service:
        """Trim a Service."""
        return cls(meta=Meta.from_object(body), selector=dict(body["spec"].get("selector") or {}))

    @property
    def revision(self) -> str:
        """Revision that it selects, or empty."""
        return self.selector.get(labels.REVISION, "")
