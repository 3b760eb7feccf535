"""Restarts of whole groups: when, how many, and when no more.

The kubelet restarts a rank that ends, and its peers keep their weights; that heals most. What is
left is a group that cannot form: a rank that ends again and again, or one that hangs. Such a group
is made anew, after a delay that doubles, and so many times in a window; then its pods are kept.

    unready, all pods run ──> ends again, or not formed in time ──> scheduled ──> made anew
                                           └── budget used up ──> Stalled

All of it is counted in status before it is done. A restart is of one StatefulSet, by its uid, so
that an operator that dies in the middle does not do it twice, whatever the clocks say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from shardedmodel_operator.api.spec import Restart
from shardedmodel_operator.planning.failures import Fault
from shardedmodel_operator.planning.missing import since
from shardedmodel_operator.planning.objects import Pod, format_time, parse_time

AGAIN_SECONDS = 10
"""A container that ends so long after its group lost readiness has been restarted in vain: the
kubelet restarts it at once the first time, and after 10 s the second."""
MAX_DOUBLINGS = 16
"""Exponent of the back-off is bounded: beyond it every delay is the longest."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """What status remembers of one group's restarts; times as in status."""

    count: int = 0
    """Restarts in the window; one that is scheduled counts."""
    window_start: str | None = None
    """When the first of them was scheduled."""
    due_at: str | None = None
    """When the scheduled restart is due; None: none is scheduled."""
    set_uid: str = ""
    """StatefulSet that is to be made anew then."""
    unready_since: str | None = None
    """Since when all pods of the group have begun to run and the group is not ready."""


@dataclass(frozen=True, slots=True)
class GroupState:
    """How a group does now."""

    set_uid: str
    begun: bool
    """Whether all its pods exist and none is Pending."""
    ready: bool
    pods: tuple[Pod, ...]
    fault: Fault | None
    deadline: timedelta | None
    """How long a group may take to form; None: not known."""


def decide(known: Restarts, group: GroupState, policy: Restart | None, now: datetime) -> Restarts:
    """Go one step on: forget, schedule or call off a restart.

    Args:
        known: what status says.
        group: how the group does.
        policy: what the spec allows; None (a spec that is not valid): nothing is changed.
        now: the present time.
    """
    if policy is None:
        return known
    scheduled = known.due_at is not None and known.set_uid == group.set_uid
    if scheduled and (group.ready or not group.begun or not _may_help(group.fault)):
        known = replace(known, count=known.count - 1)
        scheduled = False
    if scheduled:
        return known
    began = since(known.unready_since, group.begun and not group.ready, now)
    known = replace(known, due_at=None, set_uid="", unready_since=began)
    expired = _expired(known, policy, now)
    if group.ready:
        return Restarts() if expired else known
    if known.count >= policy.max_restarts or not _cannot_form(known, group, now, waiting=True):
        return known
    return _schedule(Restarts(unready_since=began) if expired else known, group, policy, now)


def _schedule(known: Restarts, group: GroupState, policy: Restart, now: datetime) -> Restarts:
    doubled = policy.base_delay_seconds * 2 ** min(known.count, MAX_DOUBLINGS)
    delay = timedelta(seconds=min(doubled, policy.max_delay_seconds))
    return replace(
        known,
        count=known.count + 1,
        window_start=known.window_start or format_time(now),
        due_at=format_time(now + delay),
        set_uid=group.set_uid,
    )


def _expired(known: Restarts, policy: Restart, now: datetime) -> bool:
    began = parse_time(known.window_start)
    return began is None or now - began >= timedelta(seconds=policy.window_seconds)


def _cannot_form(known: Restarts, group: GroupState, now: datetime, *, waiting: bool) -> bool:
    """Whether the group does not come up by itself.

    Args:
        known: what status says.
        group: how the group does.
        now: the present time.
        waiting: a container that ended again must be held back by the kubelet at this moment.
    """
    began = parse_time(known.unready_since)
    if began is None or not _may_help(group.fault):
        return False
    if group.deadline is not None and now - began >= group.deadline:
        return True
    return any(_ended_again(pod, began, waiting=waiting) for pod in group.pods)


def _ended_again(pod: Pod, began: datetime, *, waiting: bool) -> bool:
    return any(
        c.last_terminated is not None
        and c.last_terminated.finished_at is not None
        and c.last_terminated.finished_at - began >= timedelta(seconds=AGAIN_SECONDS)
        and (c.waiting_reason == "CrashLoopBackOff" or not waiting)
        for c in pod.containers
    )


def _may_help(fault: Fault | None) -> bool:
    """Whether a new start may help: not where somebody has to act."""
    return fault is None or not fault.stalled


def is_due(restarts: Restarts, set_uid: str, now: datetime) -> bool:
    """Whether this StatefulSet is to be made anew now."""
    due = parse_time(restarts.due_at)
    return due is not None and restarts.set_uid == set_uid and now >= due


def fault_of(
    name: str, restarts: Restarts, group: GroupState, policy: Restart | None, now: datetime
) -> Fault | None:
    """The group's fault, with what is done about it.

    Args:
        name: the group, for messages.
        restarts: as decided now.
        group: how the group does.
        policy: what the spec allows.
        now: the present time.
    """
    if policy is None or group.ready:
        return group.fault
    if restarts.due_at is not None:
        told = (
            f"{name} is made anew at {restarts.due_at} (restart {restarts.count} of "
            f"{policy.max_restarts} in {policy.window_seconds} s)"
        )
        return _with_note(group, name, told, stalled=False)
    if restarts.count >= policy.max_restarts and _cannot_form(restarts, group, now, waiting=False):
        told = (
            f"{name} was made anew {restarts.count} times, which is all that "
            f"spec.restart.maxRestarts ({policy.max_restarts}) allows in {policy.window_seconds} "
            "s; its pods are kept for their logs: raise it to go on, or mend the spec, whose new "
            "revision starts afresh"
        )
        return _with_note(group, name, told, stalled=True)
    return group.fault


def _with_note(group: GroupState, name: str, note: str, *, stalled: bool) -> Fault:
    fault = group.fault
    if fault is None:
        unready = ", ".join(pod.meta.name for pod in group.pods if not pod.ready)
        text = f"{name} has not formed though all its pods run; not ready: {unready}"
        return Fault("GroupNotFormed", f"{text}; {note}", stalled=stalled)
    return replace(fault, message=f"{fault.message}; {note}", stalled=stalled)


def next_look(restarts: Restarts, group: GroupState) -> datetime | None:
    """When the clock alone changes what is decided."""
    if restarts.due_at is not None:
        return parse_time(restarts.due_at)
    began = parse_time(restarts.unready_since)
    return began + group.deadline if began and group.deadline is not None else None
