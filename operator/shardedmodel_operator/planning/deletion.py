"""A model that goes: what becomes of its layout.

Everything else goes by owner references. With ``storage.retention: Delete`` a finalizer keeps the
model until a Job has deleted the layout, which waits until nothing of this model reads or writes
it and no other may be about to; whatever goes wrong, the model is let go in bounded time, with an
Event that says what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from shardedmodel_operator.api.resource import ShardedModel, spec_request_hash
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.api.status import ShardingStatus
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.failures import pod_fault, worst
from shardedmodel_operator.planning.job import cleanup_job
from shardedmodel_operator.planning.job_reports import (
    finished_status,
    job_summary,
    unfinished_layout,
)
from shardedmodel_operator.planning.objects import Job, parse_time
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_operator.planning.result import EventDraft, ObjectRef, Plan
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_operator.planning.sharing import layout_to_delete, layout_uri, maker_of, user_of

CLEANUP_MARGIN = 60
"""Seconds between the end of a cleanup Job and that of the wait for it: its pod has 30 s to end,
and it has ended before somebody else may write there. A Job of less than that is not begun."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is to be deleted."""

    spec: ShardedModelSpec
    name: str

    @property
    def uri(self) -> str:
        """Its address."""
        return layout_uri(self.spec, self.name)


def plan_deletion(
    model: ShardedModel, observed: Observed, settings: PlanSettings, now: datetime
) -> Plan:
    """Decide what to do for a model that was asked to go."""
    if not model.finalized:
        return Plan(status=model.status)
    made = _made_meanwhile(model, observed)
    if made is not None:
        # Told first: others, who may want to cut the same, look at the status.
        return Plan(status=model.status.model_copy(update={"sharding": made}))
    name = layout_to_delete(model)
    if not name:
        return _let_go(model)
    if model.spec is None:
        told = f"layout {name} is left behind: the spec that says where it is cannot be meant"
        return _let_go(model, EventDraft("Warning", "LayoutNotDeleted", told))
    layout = _Layout(model.spec, name)
    cleanup = _cleanup(model, observed)
    # What has begun is ended: who comes now waits, and makes the layout anew.
    if cleanup is None and (user := user_of(layout.spec, name, observed)):
        return _let_go(model, EventDraft("Normal", "LayoutKept", f"{layout.uri}: {user} uses it"))
    return _delete(model, layout, cleanup, observed, settings, now)


def _made_meanwhile(model: ShardedModel, observed: Observed) -> ShardingStatus | None:
    """What a Job finished or began that nobody had seen before the model was asked to go."""
    if model.spec is None or layout_to_delete(model) or model.spec.storage.retention == "Retain":
        return None
    request = spec_request_hash(model.spec)
    for job in observed.jobs:
        if job.meta.owner_uid == model.uid and job.request == request:
            summary = job_summary(observed, job)
            if summary is not None:
                return finished_status(summary, request, job.attempt)
            if begun := unfinished_layout(observed, job):
                told = model.status.sharding or ShardingStatus(request_hash=request)
                return told.model_copy(update={"unfinished_layout": begun})
    return None


def _cleanup(model: ShardedModel, observed: Observed) -> Job | None:
    """The Job that deletes the layout, once there is one."""
    jobs = [j for j in observed.jobs if j.meta.owner_uid == model.uid and not j.meta.deleting]
    return next((j for j in jobs if j.meta.role == labels.ROLE_CLEANUP), None)


def _delete(
    model: ShardedModel,
    layout: _Layout,
    cleanup: Job | None,
    observed: Observed,
    settings: PlanSettings,
    now: datetime,
) -> Plan:
    if cleanup is not None and cleanup.succeeded:
        return _let_go(model, EventDraft("Normal", "LayoutDeleted", layout.uri))
    asked = parse_time(model.deleted_at) or now
    deadline = asked + timedelta(seconds=settings.cleanup_seconds)
    if now >= deadline or (cleanup is not None and cleanup.failed):
        return _let_go(model, _given_up(layout, cleanup, observed, settings))
    users = _own_users(model, observed)
    maker = maker_of(layout.spec, observed)
    left = (deadline - now).total_seconds()
    begin = not (users or maker or cleanup or _writes(observed)) and left > 2 * CLEANUP_MARGIN
    limit = int(left) - CLEANUP_MARGIN
    return Plan(
        status=model.status,
        apply=(cleanup_job(model, layout.spec, layout.name, settings, limit),) if begin else (),
        delete=tuple(users),
        # Nothing tells of another model's layout.
        requeue_after=min(left, settings.poll_seconds) if maker else left,
    )


def _writes(observed: Observed) -> bool:
    """Whether a pod of this model still cuts its checkpoint."""
    return any(
        pod.meta.role == labels.ROLE_SHARD and pod.phase not in ("Succeeded", "Failed")
        for pod in observed.pods
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


def _given_up(
    layout: _Layout, cleanup: Job | None, observed: Observed, settings: PlanSettings
) -> EventDraft:
    pods = observed.pods_of(cleanup.meta) if cleanup is not None else []
    fault = worst(f for pod in pods if (f := pod_fault(pod, "deletion of the layout")) is not None)
    maker = maker_of(layout.spec, observed)
    late = f"{maker} may be cutting it" if maker else f"not done in {settings.cleanup_seconds} s"
    why = fault.message if fault else late
    return EventDraft(
        "Warning",
        "LayoutNotDeleted",
        f"{layout.uri} is left behind: {why}; delete it with `shardedmodel delete-layout`",
    )


def _let_go(model: ShardedModel, *events: EventDraft) -> Plan:
    return Plan(status=model.status, events=events, finalizer=False)
