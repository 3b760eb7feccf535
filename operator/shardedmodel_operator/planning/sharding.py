"""The pre-shard Job of a request: which attempt stands, what it made, when the next is due."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from shardedmodel_operator.api.resource import ShardedModel, spec_request_hash
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.api.status import ShardingStatus
from shardedmodel_operator.planning.failures import Fault, pod_fault, worst
from shardedmodel_operator.planning.group import Layout
from shardedmodel_operator.planning.job import template_hash
from shardedmodel_operator.planning.job_reports import (
    finished_status,
    job_summary,
    progress_status,
)
from shardedmodel_operator.planning.missing import due_at, missing_fault, since
from shardedmodel_operator.planning.objects import Job, Pod
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_operator.planning.sharing import deleter_of, layout_uri
from shardedmodel_runtime.errors import excerpt

MAX_DOUBLINGS = 16
"""Exponent of the back-off is bounded, so that a year of attempts does not overflow a float."""


@dataclass(frozen=True, slots=True)
class ShardingView:
    """Where pre-sharding stands for the request of the present spec."""

    request: str
    status: ShardingStatus
    layout: Layout | None = None
    job: Job | None = None
    """The latest attempt."""
    running: bool = False
    """Whether its container runs."""
    fault: Fault | None = None
    """Of the latest attempt, or of the one before while the latest runs."""
    retry_at: datetime | None = None
    """When the next attempt is due; None when none is."""
    next_attempt: int | None = None
    """Attempt to create now."""
    waits_for: str = ""
    """A model whose layout is being deleted, and may be the one that an attempt would make."""
    missing_due_at: datetime | None = None
    """When pods of the Job that are missed are called missing."""
    outdated: tuple[Job, ...] = ()
    """Jobs to delete."""


def view_sharding(
    model: ShardedModel,
    spec: ShardedModelSpec,
    observed: Observed,
    settings: PlanSettings,
    now: datetime,
) -> ShardingView:
    """Find out where pre-sharding stands.

    What a finished Job made is in its pod's termination message. When that pod is gone, status
    remembers it; when status is lost as well, a new attempt finds the layout in seconds.
    """
    request = spec_request_hash(spec)
    own = [j for j in observed.jobs if j.meta.owner_uid == model.uid and not j.meta.deleting]
    jobs = sorted((j for j in own if j.request == request), key=lambda job: job.attempt)
    others = (j for j in own if j.request != request and j.succeeded)
    kept = _kept(jobs) + _newest(others, spec.rollout.revision_history_limit)
    view = _view(model, spec, observed, request, jobs, settings, now)
    view = _behind(view, deleter_of(spec, observed))
    return replace(view, outdated=tuple(job for job in own if job not in kept))


def _behind(view: ShardingView, deleter: str) -> ShardingView:
    """Say whom an attempt that is due has to wait for."""
    if not deleter or view.next_attempt is None:
        return replace(view, waits_for=deleter)
    told = (
        f"{deleter} is being deleted with its layout, which may be the same; attempt "
        f"{view.next_attempt} starts when that is done"
    )
    fault = Fault("LayoutBeingDeleted", told, stalled=False)
    return replace(view, waits_for=deleter, fault=fault)


def _kept(jobs: list[Job]) -> list[Job]:
    """The latest Job, and the last that ended while the latest runs: its log is still wanted."""
    ended = [job for job in jobs[:-1] if job.finished]
    return jobs[-1:] + ([] if jobs and jobs[-1].finished else ended[-1:])


def _newest(jobs: Iterable[Job], limit: int) -> list[Job]:
    """The Jobs that ended last, of those that made layouts for former requests."""
    ended = sorted(jobs, key=lambda job: job.finished_at.timestamp() if job.finished_at else 0.0)
    return ended[len(ended) - limit :] if limit < len(ended) else ended


def _view(
    model: ShardedModel,
    spec: ShardedModelSpec,
    observed: Observed,
    request: str,
    jobs: list[Job],
    settings: PlanSettings,
    now: datetime,
) -> ShardingView:
    job = jobs[-1] if jobs else None
    status = _status_now(observed, job, _cached(model, request), now)
    base = ShardingView(request, status, _layout(spec, status), job)
    if job is None:
        idle = base.layout is not None or spec.suspend
        return base if idle else replace(base, next_attempt=1)
    if base.layout is not None and (job.succeeded or job_summary(observed, job)):
        return base
    due = None
    if job.finished:
        # Failed, or ended well without telling what it made.
        base = replace(base, running=True, fault=job_fault(observed, job))
        due = (job.finished_at or now) + backoff(job.attempt, settings)
    else:
        pods = observed.pods_of(job.meta)
        begun = any(pod.running or pod.ended for pod in pods)
        missing = status.pods_missing_since
        fault = _running_fault(observed, jobs, pods, missing, settings, now)
        looks = due_at(missing, settings)
        base = replace(base, running=begun, fault=fault, missing_due_at=looks)
    if spec.suspend:
        return base
    # A Job that runs may end well; one that cannot start, or failed, gives way to a mended spec.
    mended = job.template != template_hash(spec, settings) and (job.finished or not base.running)
    if mended or (due is not None and now >= due):
        return replace(base, next_attempt=job.attempt + 1)
    return replace(base, retry_at=due)


def _status_now(
    observed: Observed, job: Job | None, cached: ShardingStatus, now: datetime
) -> ShardingStatus:
    """What status says of sharding: the Job's summary, else its progress, else what it said.

    The summary counts as soon as the pod has left it, a second before the Job is marked complete.
    """
    if job is None:
        return cached
    summary = job_summary(observed, job)
    if summary is not None:
        return finished_status(summary, cached.request_hash, job.attempt)
    if not cached.layout_hash and cached.attempt != job.attempt:
        cached = ShardingStatus(
            request_hash=cached.request_hash,
            furthest_bytes=cached.furthest_bytes,
            unfinished_layout=cached.unfinished_layout,
        )
    pods = sum(pod.meta.owner_uid == job.meta.uid for pod in observed.pods)
    missed = not job.finished and pods < job.workers
    missing = since(cached.pods_missing_since, missed, now)
    status = cached.model_copy(update={"attempt": job.attempt, "pods_missing_since": missing})
    return status if job.finished else progress_status(status, observed, job)


def backoff(attempt: int, settings: PlanSettings) -> timedelta:
    """Wait after attempt number ``attempt``: 10 s, doubling, at most 300 s by default."""
    doubled = settings.backoff_seconds * 2 ** min(attempt - 1, MAX_DOUBLINGS)
    return timedelta(seconds=min(doubled, settings.backoff_max_seconds))


def relayout(view: ShardingView, fault: Fault | None, settings: PlanSettings) -> datetime | None:
    """When to shard again because ranks find no layout where there was one; None: not needed.

    Only a rank that looked after the last attempt ended proves that the layout is gone.
    """
    if fault is None or fault.reason != "LayoutNotFound" or fault.at is None:
        return None
    if view.job is None:
        return fault.at
    ended = view.job.finished_at
    if ended is None or fault.at <= ended:
        return None
    return ended + backoff(view.job.attempt, settings)


def job_fault(observed: Observed, job: Job) -> Fault | None:
    """Why a Job failed: what its pod says, or what is left to say without it."""
    who = f"pre-shard attempt {job.attempt}"
    faults = (pod_fault(pod, who) for pod in observed.pods_of(job.meta))
    fault = worst(fault for fault in faults if fault is not None)
    if fault is not None:
        return fault
    if not job.failed:
        return _mute(observed, job, who)
    gone = f"its pod is gone, with its log; kubectl describe job {job.meta.name} says more"
    text = excerpt(job.message) or gone
    return Fault("JobFailed", f"{who} (Job {job.meta.name}) failed: {text}", stalled=False)


def _mute(observed: Observed, job: Job, who: str) -> Fault | None:
    """A Job that ended well without a summary; while its pod's end is not yet seen, nothing."""
    if not any(pod.ended for pod in observed.pods_of(job.meta)):
        return None
    return Fault(
        "JobFailed",
        f"{who} (Job {job.meta.name}) ended without the summary that the runtime writes; check "
        "that spec.workers.image is a runtime image of this release",
        stalled=False,
    )


def _running_fault(
    observed: Observed,
    jobs: list[Job],
    pods: list[Pod],
    missing: str | None,
    settings: PlanSettings,
    now: datetime,
) -> Fault | None:
    """What keeps the latest attempt from running, or else what the one before failed of."""
    job = jobs[-1]
    faults = (pod_fault(pod, f"pre-shard attempt {job.attempt}") for pod in pods)
    fault = worst(fault for fault in faults if fault is not None)
    if fault is not None:
        return fault
    found = len(pods), job.workers
    told = observed.refusals.get(job.meta.uid, "")
    missed = missing_fault("Job", job.meta.name, found, missing, settings, now, told)
    if missed is not None:
        return missed
    before = [j for j in jobs[:-1] if j.failed]
    return job_fault(observed, before[-1]) if before else None


def _cached(model: ShardedModel, request: str) -> ShardingStatus:
    status = model.status.sharding
    return (
        status
        if status and status.request_hash == request
        else ShardingStatus(request_hash=request)
    )


def _layout(spec: ShardedModelSpec, status: ShardingStatus) -> Layout | None:
    if not status.layout_hash:
        return None
    uri = layout_uri(spec, status.layout_hash)
    return Layout(status.layout_hash, uri, status.max_rank_bytes)
