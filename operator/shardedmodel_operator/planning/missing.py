"""Pods that should exist and do not: since when, and what is wrong when it lasts.

When pods were first missed is kept in status: the age of their controller says nothing, since an
old group loses a pod to an eviction, or all of them to ``suspend``.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from shardedmodel_operator.planning.failures import Fault
from shardedmodel_operator.planning.observed import Pod, format_time, parse_time
from shardedmodel_operator.planning.settings import PlanSettings


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
) -> Fault | None:
    """The fault of a controller that creates too few pods; the API tells why in Events alone.

    Args:
        kind: of the controller.
        name: of the controller.
        pods: how many there are, and how many there should be.
        missing_since: what status says of it.
        settings: how long it may last.
        now: the present time.
    """
    due = due_at(missing_since, settings)
    if due is None or now < due:
        return None
    found, wanted = pods
    return Fault(
        "PodsNotCreated",
        f"{kind} {name} has {found} of {wanted} pods: a quota or an admission controller may "
        f"refuse them; kubectl describe {kind.lower()} {name} says which",
        stalled=False,
    )


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
