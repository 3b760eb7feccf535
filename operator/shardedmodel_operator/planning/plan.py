"""The planner: one pure function from a model and what is observed to what should be done.

    spec ── request hash ──> pre-shard Job ── summary ──> layout ──┐
      └────────────────────── worker template ─────────────────────┴─> revision
    revision ──> groups ── all ready ──> Service

Everything is named by its content, so that the same spec finds the same objects, an operator that
is killed between any two calls goes on where it was, and a reverted spec goes back for nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.api.status import ShardedModelStatus
from shardedmodel_operator.planning.cache import cache_problem
from shardedmodel_operator.planning.deletion import plan_deletion
from shardedmodel_operator.planning.drain import still_sent_to
from shardedmodel_operator.planning.events import transitions
from shardedmodel_operator.planning.group_views import view_groups
from shardedmodel_operator.planning.groups import surplus, taken_names, wanted
from shardedmodel_operator.planning.job import shard_job
from shardedmodel_operator.planning.objects import Job
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_operator.planning.progress import deadline
from shardedmodel_operator.planning.protection import protection, starts_pods
from shardedmodel_operator.planning.result import ObjectRef, Plan
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_operator.planning.sharding import ShardingView, relayout, view_sharding
from shardedmodel_operator.planning.situation import Situation, situation
from shardedmodel_operator.planning.status import invalid_status, status_of


def plan(model: ShardedModel, observed: Observed, settings: PlanSettings, now: datetime) -> Plan:
    """Decide what to do for ``model``, given what is observed at ``now``.

    Args:
        model: the resource, parsed.
        observed: its objects, with the reports of ``report_targets`` where they could be pulled.
        settings: what the operator was told about its surroundings.
        now: the present time, aware, in UTC.

    Returns:
        The plan; applied, and observed again, it leads to a plan with nothing to do.
    """
    if model.deleting:
        return plan_deletion(model, observed, settings, now)
    model = _allowed(model, settings)
    if model.spec is None:
        groups = view_groups(model, None, None, observed, settings, now)
        status = invalid_status(model, groups, now)
        return Plan(status=status, events=transitions(model.status, status))
    return _plan_valid(model, model.spec, observed, settings, now)


def _allowed(model: ShardedModel, settings: PlanSettings) -> ShardedModel:
    """The model, without its spec where that asks for what the admin has not allowed."""
    problem = cache_problem(model.spec, settings.cache_host_paths) if model.spec else None
    return model if problem is None else replace(model, spec=None, problems=(problem,))


def _plan_valid(
    model: ShardedModel,
    spec: ShardedModelSpec,
    observed: Observed,
    settings: PlanSettings,
    now: datetime,
) -> Plan:
    sharding = view_sharding(model, spec, observed, settings, now)
    groups = view_groups(model, spec, sharding.layout, observed, settings, now)
    seen = situation(model, spec, sharding, groups)
    due = None if spec.suspend else relayout(sharding, seen.fault, settings)
    attempt = _attempt(sharding, due, now)
    waits = attempt is not None and bool(sharding.waits_for)
    manifests = []
    if attempt is not None and not waits:
        manifests.append(shard_job(model, spec, sharding.request, attempt, settings))
    if sharding.layout is not None:
        manifests += wanted(model, spec, sharding.layout, groups, observed, settings)
    guards = protection(model, spec, groups, observed, settings)
    manifests = [*guards.policies, *manifests, *guards.budgets]
    apply = _possible(manifests, taken_names(model, observed), bool(guards.policies))
    held_back = waits or len(apply) < len(manifests) or bool(still_sent_to(groups, observed))
    status = status_of(seen, now)
    return Plan(
        status=status,
        apply=tuple(apply),
        delete=(
            *surplus(model, spec, groups, observed, now),
            *(_job_ref(model, job) for job in sharding.outdated),
            *guards.delete,
        ),
        events=transitions(model.status, status),
        finalizer=_finalizer(model, spec),
        requeue_after=settings.poll_seconds
        if held_back
        else _requeue(seen, (due, _deadline(spec, status)), settings, now),
    )


def _attempt(sharding: ShardingView, due: datetime | None, now: datetime) -> int | None:
    """The attempt to make now, if any: the next one, or one to replace a layout that is gone."""
    if sharding.next_attempt is None and due is not None and now >= due:
        return (sharding.job.attempt if sharding.job else 0) + 1
    return sharding.next_attempt


def _finalizer(model: ShardedModel, spec: ShardedModelSpec) -> bool | None:
    wanted = spec.storage.retention == "Delete"
    return None if wanted == model.finalized else wanted


def _possible(
    manifests: list[dict[str, Any]], taken: set[tuple[str, str]], unguarded: bool
) -> list[dict[str, Any]]:
    """Leave out what would collide with objects on their way out, and pods that lack guards."""
    return [
        manifest
        for manifest in manifests
        if (manifest["kind"], manifest["metadata"]["name"]) not in taken
        and not (unguarded and starts_pods(manifest))
    ]


def _job_ref(model: ShardedModel, job: Job) -> ObjectRef:
    return ObjectRef("batch/v1", "Job", model.namespace, job.meta.name, job.meta.uid)


def _deadline(spec: ShardedModelSpec, status: ShardedModelStatus) -> datetime | None:
    return deadline(status.progress_at, spec.rollout.progress_deadline_seconds)


def _requeue(
    seen: Situation, due: tuple[datetime | None, ...], settings: PlanSettings, now: datetime
) -> float | None:
    """When to look again though nothing happens: to pull reports, or because time is due."""
    waits = []
    looks = (look for group in seen.groups.groups for look in group.looks)
    deadlines = (seen.sharding.retry_at, seen.sharding.missing_due_at, *due, *looks)
    waits += [max(0.0, (at - now).total_seconds()) for at in deadlines if at and at > now]
    if _moving(seen) or any(rank.awaits_report for rank in seen.ranks):
        waits.append(settings.poll_seconds)
    return min(waits, default=None)


def _moving(seen: Situation) -> bool:
    """Whether some report changes without an event: a Job runs, or ranks that run are not ready."""
    sharding = seen.sharding
    if sharding.job is not None and not sharding.job.finished and sharding.running:
        return True
    return any(pod.running and not pod.ready for group in seen.groups.focus for pod in group.pods)
