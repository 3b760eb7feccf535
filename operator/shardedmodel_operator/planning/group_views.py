"""Rank groups as they are: their objects put together, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.api.status import GroupStatus
from shardedmodel_operator.planning import labels, restarts
from shardedmodel_operator.planning.failures import Fault, pod_fault, worst
from shardedmodel_operator.planning.group import Layout, revision_of, start_budget
from shardedmodel_operator.planning.missing import (
    due_at,
    missing_fault,
    removal_due_at,
    removal_fault,
    since,
)
from shardedmodel_operator.planning.objects import Pod, StatefulSet
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_operator.planning.restarts import Restarts
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_runtime.report import GroupReport


@dataclass(frozen=True, slots=True)
class GroupView:
    """One group that exists: its StatefulSet, its pods and what rank 0 tells."""

    set: StatefulSet
    pods: tuple[Pod, ...]
    report: GroupReport | None
    missing_since: str | None = None
    """When pods of it were first missed, as status says it."""
    restarts: Restarts = field(default_factory=Restarts)
    """How often it was made anew as a whole, and when it will be."""
    fault: Fault | None = None
    """The worst that is wrong with it."""
    looks: tuple[datetime, ...] = ()
    """When the clock alone changes what is decided about it."""

    @property
    def index(self) -> int:
        """Index of the group."""
        return self.set.meta.group

    @property
    def revision(self) -> str:
        """Revision of the group."""
        return self.set.meta.revision

    @property
    def ranks_per_pod(self) -> int:
        """Ranks of one pod."""
        return self.set.ranks_per_pod

    @property
    def ranks(self) -> int:
        """Ranks that the group should have now; 0 while suspended."""
        return self.set.replicas * self.ranks_per_pod

    @property
    def ready_pods(self) -> int:
        """Pods that are ready."""
        return sum(pod.ready for pod in self.pods)

    @property
    def ready(self) -> bool:
        """Whether every rank is ready."""
        return self.set.replicas > 0 and self.ready_pods == self.set.replicas

    def restart_due(self, now: datetime) -> bool:
        """Whether it is to be made anew now."""
        return restarts.is_due(self.restarts, self.set.meta.uid, now)


@dataclass(frozen=True, slots=True)
class GroupsView:
    """All groups of a model, and the revisions that matter."""

    groups: tuple[GroupView, ...]
    current: str
    """Revision that the model's Service selects; empty while it has none."""
    target: str
    """Revision that the spec asks for; empty while its layout is not known."""
    draining: bool
    """Whether pods of another revision than the target still exist."""

    def of(self, revision: str) -> list[GroupView]:
        """Groups of one revision, by index."""
        found = (g for g in self.groups if revision and g.revision == revision)
        return sorted(found, key=lambda group: group.index)

    @property
    def focus(self) -> list[GroupView]:
        """The groups that status speaks of: those of the target, else those that serve."""
        return self.of(self.target or self.current)

    def complete(self, replicas: int) -> bool:
        """Whether all groups of the target are ready."""
        ready = {group.index for group in self.of(self.target) if group.ready}
        return replicas > 0 and ready >= set(range(replicas))


def view_groups(
    model: ShardedModel,
    spec: ShardedModelSpec | None,
    layout: Layout | None,
    observed: Observed,
    settings: PlanSettings,
    now: datetime,
) -> GroupsView:
    """Put together what is observed. The current revision is what the Service says, no memory."""
    target = revision_of(spec, layout, settings) if spec and layout else ""
    endpoint = observed.endpoint(model)
    known = {(g.index, g.revision): g for g in model.status.groups}
    terms = _Terms(spec, layout, settings, now)
    sets = (
        s for s in observed.stateful_sets if s.meta.owner_uid == model.uid and not s.meta.deleting
    )
    rank_pods = (p for p in observed.pods if p.meta.role == labels.ROLE_RANK)
    return GroupsView(
        groups=tuple(
            _view(s, observed, known.get((s.meta.group, s.meta.revision)), terms) for s in sets
        ),
        current=endpoint.revision if endpoint else "",
        target=target,
        draining=any(pod.meta.revision != target for pod in rank_pods),
    )


@dataclass(frozen=True, slots=True)
class _Terms:
    """What all groups are judged by."""

    spec: ShardedModelSpec | None
    layout: Layout | None
    settings: PlanSettings
    now: datetime

    @property
    def deadline(self) -> timedelta | None:
        """How long a group may take to form; None while the layout is not known."""
        if self.spec is None or self.layout is None:
            return None
        return timedelta(seconds=start_budget(self.spec, self.layout, self.settings))


def _view(
    group: StatefulSet, observed: Observed, known: GroupStatus | None, terms: _Terms
) -> GroupView:
    pods = tuple(observed.pods_of(group.meta))
    leaving = tuple(former_pods(observed, group.meta.revision, group.meta.group, group.meta.uid))
    there = {pod.ordinal for pod in (*pods, *leaving)}
    missing = since(
        known.pods_missing_since if known else None, len(there) < group.replicas, terms.now
    )
    found, told = (len(pods), group.replicas), observed.refusals.get(group.meta.uid, "")
    settings, now = terms.settings, terms.now
    missed = missing_fault("StatefulSet", group.meta.name, found, missing, settings, now, told)
    state = restarts.GroupState(
        set_uid=group.meta.uid,
        begun=len(pods) == group.replicas > 0 and all(pod.phase != "Pending" for pod in pods),
        ready=group.replicas > 0 and sum(pod.ready for pod in pods) == group.replicas,
        pods=pods,
        fault=_fault(group, pods, leaving, missed, terms),
        deadline=terms.deadline,
    )
    policy = terms.spec.restart if terms.spec else None
    decided = restarts.decide(_remembered(known), state, policy, terms.now)
    looks = [
        due_at(missing, terms.settings),
        restarts.next_look(decided, state),
        *(removal_due_at(pod, terms.settings) for pod in leaving),
    ]
    return GroupView(
        set=group,
        pods=pods,
        report=observed.group_reports.get(group.meta.name),
        missing_since=missing,
        restarts=decided,
        fault=restarts.fault_of(f"group {group.meta.group}", decided, state, policy, terms.now),
        looks=tuple(look for look in looks if look is not None),
    )


def former_pods(observed: Observed, revision: str, group: int, set_uid: str = "") -> Iterator[Pod]:
    """Pods of a group that are on their way out, or that a former StatefulSet of it owned.

    Nothing can take their place before they have gone, since their names are the same.
    """
    for pod in observed.pods:
        meta = pod.meta
        if (meta.role, meta.revision, meta.group) != (labels.ROLE_RANK, revision, group):
            continue
        if meta.deleting or meta.owner_uid not in ("", set_uid):
            yield pod


def _remembered(known: GroupStatus | None) -> Restarts:
    if known is None:
        return Restarts()
    return Restarts(
        count=known.restarts,
        window_start=known.restarts_since,
        due_at=known.restart_at,
        set_uid=known.restart_of,
        unready_since=known.unready_since,
    )


def _fault(
    group: StatefulSet,
    pods: tuple[Pod, ...],
    leaving: tuple[Pod, ...],
    missed: Fault | None,
    terms: _Terms,
) -> Fault | None:
    """The worst that is wrong with a group, if anything; ``missed``: with pods that are not."""
    return worst(
        fault
        for fault in (
            *(pod_fault(pod, group.who(pod)) for pod in pods if not pod.ready),
            missed,
            *(removal_fault(pod, group.who(pod), terms.settings, terms.now) for pod in leaving),
        )
        if fault is not None
    )
