"""Pods that should exist and do not: since when, and what is wrong when it lasts.

Who refuses a pod tells it to the controller that would make it, and that one tells it in an Event.

When pods were first missed is kept in status: the age of their controller says nothing, since an
old group loses a pod to an eviction, or all of them to ``suspend``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from shardedmodel_operator.api.status import ShardedModelStatus
from shardedmodel_operator.planning.failures import TEXT_LIMIT, Fault
from shardedmodel_operator.planning.objects import Meta, Pod, format_time, parse_time
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_runtime.errors import excerpt

REFUSALS = {
    # The quota's admission names the quota and what is requested, used and limited.
    "exceeded quota": ("QuotaExceeded", "raise the quota, or ask for less in spec"),
    # A quota of cpu or memory takes no pod that does not say what it needs.
    "failed quota": ("QuotaExceeded", "give what it asks for in spec.workers.resources"),
    "violates PodSecurity": (
        "PodSecurityViolation",
        "adapt spec.workers.template, or the namespace's pod-security labels",
    ),
}
"""What servers write into a refusal, the reason it is told as, and what to do."""
OTHER_REFUSAL = ("PodsRefused", "adapt spec.workers.template, or the policy that forbids it")
"""Of any other admission plugin or webhook."""


def since(known: str | None, holds: bool, now: datetime) -> str | None:
    """When something that holds now began to: what status knows of it, else now."""
    return (known or format_time(now)) if holds else None


def due_at(missing_since: str | None, settings: PlanSettings) -> datetime | None:
    """When missing pods are called missing; None when none are missed."""
    began = parse_time(missing_since)
    return began + timedelta(seconds=settings.missing_pods_seconds) if began else None


def missing_fault(
    kind: str,
    name: str,
    pods: tuple[int, int],
    missing_since: str | None,
    settings: PlanSettings,
    now: datetime,
    refusal: str = "",
) -> Fault | None:
    """The fault of a controller that creates too few pods.

    Args:
        kind: of the controller.
        name: of the controller.
        pods: how many there are, and how many there should be.
        missing_since: what status says of it.
        settings: how long it may last.
        now: the present time.
        refusal: what the controller was told when it tried; empty when nobody knows.
    """
    due = due_at(missing_since, settings)
    if due is None or now < due:
        return None
    found, wanted = pods
    if refusal:
        reason, remedy = _told(refusal)
        return Fault(
            reason,
            f"{kind} {name} has {found} of {wanted} pods: {excerpt(refusal, TEXT_LIMIT)}; "
            f"{remedy}: the pods come by themselves then",
            stalled=False,
        )
    return Fault(
        "PodsNotCreated",
        f"{kind} {name} has {found} of {wanted} pods: a quota or an admission controller may "
        f"refuse them; kubectl describe {kind.lower()} {name} says which",
        stalled=False,
    )


def _told(refusal: str) -> tuple[str, str]:
    """The reason of a refusal, and what to do."""
    return next((told for text, told in REFUSALS.items() if text in refusal), OTHER_REFUSAL)


def short_of_pods(
    uid: str,
    status: ShardedModelStatus,
    observed: Observed,
    settings: PlanSettings,
    now: datetime,
) -> Iterator[Meta]:
    """Jobs and StatefulSets of the model ``uid`` whose pods have been missed for long.

    What they were told of it is worth reading.
    """
    sharding = status.sharding
    if sharding is not None and _is_due(sharding.pods_missing_since, settings, now):
        yield from (j.meta for j in observed.jobs if j.meta.owner_uid == uid and not j.finished)
    due = {
        (group.revision, group.index)
        for group in status.groups
        if _is_due(group.pods_missing_since, settings, now)
    }
    for found in observed.stateful_sets:
        meta = found.meta
        if meta.owner_uid == uid and (meta.revision, meta.group) in due:
            yield meta


def _is_due(missing_since: str | None, settings: PlanSettings, now: datetime) -> bool:
    due = due_at(missing_since, settings)
    return due is not None and now >= due


def removal_due_at(pod: Pod, settings: PlanSettings) -> datetime | None:
    """When a pod on its way out is called stuck; None for one that is not on its way out."""
    gone_by = pod.meta.gone_by
    return gone_by + timedelta(seconds=settings.missing_pods_seconds) if gone_by else None


def removal_fault(pod: Pod, who: str, settings: PlanSettings, now: datetime) -> Fault | None:
    """The fault of a pod that should have gone: nothing takes its place before it has."""
    due = removal_due_at(pod, settings)
    if due is None or now < due:
        return None
    return Fault(
        "PodNotRemoved",
        f"pod {pod.meta.name} ({who}) on {pod.node or 'no node'} should have ended by now; its "
        "node may be gone: bring the node back, or delete it or the pod (kubectl delete pod "
        f"{pod.meta.name} --force) when nothing runs there any more",
        stalled=False,
    )
