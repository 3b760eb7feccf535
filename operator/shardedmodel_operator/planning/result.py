"""What the planner decides: the plan, as plain values for the thin executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from shardedmodel_operator.api.status import ShardedModelStatus


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object to delete, only while it has this uid; its dependants go in the background."""

    api_version: str
    kind: Literal["Job", "StatefulSet", "Service", "NetworkPolicy", "PodDisruptionBudget"]
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class EventDraft:
    """A Kubernetes Event about the model; posted when the status that it belongs to is written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order: apply, delete, write status, post events.

    An empty ``apply`` and ``delete`` with an equal status is the fixed point.
    """

    status: ShardedModelStatus
    apply: tuple[dict[str, Any], ...] = ()
    """Whole objects for server-side apply, with force, in order."""
    delete: tuple[ObjectRef, ...] = ()
    events: tuple[EventDraft, ...] = ()
    requeue_after: float | None = None
    """Seconds until planning again even if nothing happens; None: only when something does."""
    finalizer: bool | None = None
    """Whether the model should carry our finalizer; None: as it is. It is set before anything else
    is done, and removed after everything else."""
