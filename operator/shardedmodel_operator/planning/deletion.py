"""A model that goes: what becomes of its layout.

Everything else goes by owner references. With ``storage.retention: Delete`` a finalizer keeps the
model until a Job has deleted the layout, which waits until nothing of this model reads or writes
it; whatever goes wrong, the model is let go in bounded time, with an Event that says what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from shardedmodel_operator.api.resource import ShardedModel, spec_request_hash
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.failures import pod_fault, worst
from shardedmodel_operator.planning.job import cleanup_job
from shardedmodel_operator.planning.observed import Job, Observed, parse_time
from shardedmodel_operator.planning.result import EventDraft, ObjectRef, Plan
from shardedmodel_operator.planning.settings import PlanSettings


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is to be deleted."""

    spec: ShardedModelSpec
    name: str

    @property
    def uri(self) -> str:
        """Its address."""
        return f"{self.spec.storage.uri.rstrip('/')}/{self.name}"


def plan_deletion(
    model: ShardedModel, observed: Observed, settings: PlanSettings, now: datetime
) -> Plan:
    """Decide what to do for a model that was asked to go."""
    if not model.finalized:
        return Plan(status=model.status)
    name = model.status.sharding.layout_hash if model.status.sharding else ""
    if not name or (model.spec is not None and model.spec.storage.retention == "Retain"):
        return _let_go(model)
    if model.spec is None:
        told = f"layout {name} is left behind: the spec that says where it is cannot be meant"
        return _let_go(model, EventDraft("Warning", "LayoutNotDeleted", told))
    layout = _Layout(model.spec, name)
    if user := _other_user(layout, observed):
        return _let_go(model, EventDraft("Normal", "LayoutKept", f"{layout.uri}: {user} uses it"))
    return _delete(model, layout, observed, settings, now)


def _delete(
    model: ShardedModel, layout: _Layout, observed: Observed, settings: PlanSettings, now: datetime
) -> Plan:
    jobs = [j for j in observed.jobs if j.meta.owner_uid == model.uid and not j.meta.deleting]
    cleanup = next((j for j in jobs if j.meta.role == labels.ROLE_CLEANUP), None)
    if cleanup is not None and cleanup.succeeded:
        return _let_go(model, EventDraft("Normal", "LayoutDeleted", layout.uri))
    asked = parse_time(model.deleted_at) or now
    deadline = asked + timedelta(seconds=settings.cleanup_seconds)
    if now >= deadline or (cleanup is not None and cleanup.failed):
        return _let_go(model, _given_up(layout, cleanup, observed, settings))
    users = _own_users(model, observed)
    busy = bool(users) or any(
        pod.meta.role == labels.ROLE_SHARD and pod.phase not in ("Succeeded", "Failed")
        for pod in observed.pods
    )
    return Plan(
        status=model.status,
        apply=()
        if busy or cleanup is not None
        else (cleanup_job(model, layout.spec, layout.name, settings),),
        delete=tuple(users),
        requeue_after=(deadline - now).total_seconds(),
    )


def _own_users(model: ShardedModel, observed: Observed) -> list[ObjectRef]:
    """What of this model reads or writes the layout, which goes first."""
    own = model.uid, model.namespace
    sets = [s.meta for s in observed.stateful_sets]
    jobs = [j.meta for j in observed.jobs if j.meta.role == labels.ROLE_SHARD]
    return [
        *(
            ObjectRef("apps/v1", "StatefulSet", own[1], meta.name, meta.uid)
            for meta in sets
            if meta.owner_uid == own[0] and not meta.deleting
        ),
        *(
            ObjectRef("batch/v1", "Job", own[1], meta.name, meta.uid)
            for meta in jobs
            if meta.owner_uid == own[0] and not meta.deleting
        ),
    ]


def _other_user(layout: _Layout, observed: Observed) -> str:
    """Another model that has the layout, or has asked for it; empty when there is none."""
    request = spec_request_hash(layout.spec)
    for other in observed.neighbours:
        if other.deleting or other.spec is None:
            continue
        has = other.status.sharding.layout_hash if other.status.sharding else ""
        if has == layout.name or spec_request_hash(other.spec) == request:
            return f"ShardedModel {other.namespace}/{other.name}"
    return ""


def _given_up(
    layout: _Layout, cleanup: Job | None, observed: Observed, settings: PlanSettings
) -> EventDraft:
    pods = observed.pods_of(cleanup.meta) if cleanup is not None else []
    fault = worst(f for pod in pods if (f := pod_fault(pod, "deletion of the layout")) is not None)
    why = fault.message if fault else f"not done in {settings.cleanup_seconds} s"
    return EventDraft(
        "Warning",
        "LayoutNotDeleted",
        f"{layout.uri} is left behind: {why}; delete it with `shardedmodel delete-layout`",
    )


def _let_go(model: ShardedModel, *events: EventDraft) -> Plan:
    return Plan(status=model.status, events=events, finalizer=False)
