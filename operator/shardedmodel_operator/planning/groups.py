"""Rank groups: what is there, what should be there, and what to do about the difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.failures import Fault, pod_fault, worst
from shardedmodel_operator.planning.group import (
    Layout,
    endpoint_selector,
    endpoint_service,
    group_size,
    headless_service,
    revision_of,
    stateful_set,
)
from shardedmodel_operator.planning.observed import Job, Meta, Observed, Pod, Service, StatefulSet
from shardedmodel_operator.planning.result import ObjectRef
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_operator.planning.sharding import missing_since, no_pods
from shardedmodel_runtime.report import GroupReport


@dataclass(frozen=True, slots=True)
class GroupView:
    """One group that exists: its StatefulSet, its pods and what rank 0 tells."""

    set: StatefulSet
    pods: tuple[Pod, ...]
    report: GroupReport | None

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
        return int(self.set.meta.labels.get(labels.RANKS_PER_POD, "1"))

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

    def ranks_of(self, pod: Pod) -> range:
        """Ranks that a pod holds."""
        first = pod.ordinal * self.ranks_per_pod
        return range(first, first + self.ranks_per_pod)

    def fault(self, settings: PlanSettings, now: datetime) -> Fault | None:
        """The worst that is wrong with it, if anything."""
        if not self.pods and self.set.replicas > 0:
            late = missing_since(self.set.meta.created_at, settings, now)
            return no_pods("StatefulSet", self.set.meta.name) if late else None
        faults = (pod_fault(p, self._who(p)) for p in self.pods if not p.ready)
        return worst(fault for fault in faults if fault is not None)

    def _who(self, pod: Pod) -> str:
        ranks = self.ranks_of(pod)
        return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"


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
) -> GroupsView:
    """Put together what is observed. The current revision is what the Service says, no memory."""
    sets = [
        s for s in observed.stateful_sets if s.meta.owner_uid == model.uid and not s.meta.deleting
    ]
    target = revision_of(spec, layout, settings) if spec and layout else ""
    endpoint = next(
        (
            s
            for s in observed.services
            if s.meta.owner_uid == model.uid and s.meta.name == model.name and not s.meta.deleting
        ),
        None,
    )
    rank_pods = (p for p in observed.pods if p.meta.role == labels.ROLE_RANK)
    return GroupsView(
        groups=tuple(
            GroupView(s, tuple(observed.pods_of(s.meta)), observed.group_reports.get(s.meta.name))
            for s in sets
        ),
        current=endpoint.selector.get(labels.REVISION, "") if endpoint else "",
        target=target,
        draining=any(pod.meta.revision != target for pod in rank_pods),
    )


def surplus(
    model: ShardedModel, spec: ShardedModelSpec, view: GroupsView, observed: Observed
) -> list[ObjectRef]:
    """StatefulSets and headless Services that should go.

    While the target is not known, a revision that may turn out to be it is kept. Suspended, only
    the target's groups are kept (at no pods): the others could not be made anew as they are.
    """
    keep = {view.target}
    if spec.rollout.strategy == "Surge" and not spec.suspend:
        keep.add(view.current)

    def goes(revision: str, index: int) -> bool:
        if index >= spec.replicas:
            return True
        return (bool(view.target) or spec.suspend) and revision not in keep

    refs = []
    for group in view.groups:
        if goes(group.revision, group.index):
            refs.append(_ref(model, "apps/v1", "StatefulSet", group.set.meta))
    for service in observed.services:
        meta = service.meta
        headless = meta.role == labels.ROLE_RANK and meta.owner_uid == model.uid
        if headless and not meta.deleting and goes(meta.revision, meta.group):
            refs.append(_ref(model, "v1", "Service", meta))
    return refs


def _ref(
    model: ShardedModel, api_version: str, kind: Literal["StatefulSet", "Service"], meta: Meta
) -> ObjectRef:
    return ObjectRef(api_version, kind, model.namespace, meta.name, meta.uid)


def wanted(
    model: ShardedModel,
    spec: ShardedModelSpec,
    layout: Layout,
    view: GroupsView,
    observed: Observed,
    settings: PlanSettings,
) -> Iterator[dict[str, Any]]:
    """What is missing of the target's groups, and the model's Service once they are ready.

    A StatefulSet that exists is applied again only to change its number of pods (0 and back, for
    ``suspend``): its pod template never changes, because a changed one has another revision.
    """
    others = [g for g in view.groups if g.revision != view.target]
    if spec.rollout.strategy == "Recreate" and (others or view.draining):
        return
    services = {s.meta.name for s in observed.services if s.meta.owner_uid == model.uid}
    replicas = {g.index: g.set.replicas for g in view.of(view.target)}
    size = 0 if spec.suspend else group_size(spec)
    for index in range(spec.replicas):
        if spec.suspend and index not in replicas:
            continue
        service = headless_service(model, view.target, index)
        if service["metadata"]["name"] not in services:
            yield service
        if replicas.get(index) != size:
            yield stateful_set(model, spec, layout, view.target, index, settings)
    if view.complete(spec.replicas) and not _serves(model, view, observed):
        yield endpoint_service(model, view.target)


def _serves(model: ShardedModel, view: GroupsView, observed: Observed) -> bool:
    """Whether the model's Service sends to the target already."""
    selector = endpoint_selector(model.name, view.target)
    return any(
        s.meta.owner_uid == model.uid
        and s.meta.name == model.name
        and not s.meta.deleting
        and dict(s.selector) == selector
        for s in observed.services
    )


def taken_names(model: ShardedModel, observed: Observed) -> set[tuple[str, str]]:
    """Kind and name of objects that another owner holds or that are on their way out.

    A model that is deleted and made anew meets the objects of its former self, which the garbage
    collector is still removing; they must not be adopted. Orphans are: what was left behind by
    ``--cascade=orphan`` has a name that follows from its content, so it is what would be made.
    """
    kinds: list[tuple[str, Sequence[Job | StatefulSet | Service]]] = [
        ("Job", observed.jobs),
        ("StatefulSet", observed.stateful_sets),
        ("Service", observed.services),
    ]
    return {
        (kind, item.meta.name)
        for kind, items in kinds
        for item in items
        if item.meta.owner_uid not in ("", model.uid) or item.meta.deleting
    }
