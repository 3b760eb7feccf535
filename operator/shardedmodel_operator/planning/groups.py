"""Rank groups: what should be there, and what to do about the difference."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.drain import still_sent_to
from shardedmodel_operator.planning.group import Layout, group_size, stateful_set
from shardedmodel_operator.planning.group_views import GroupsView, former_pods
from shardedmodel_operator.planning.objects import Meta
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_operator.planning.result import ObjectRef
from shardedmodel_operator.planning.services import (
    endpoint_selector,
    endpoint_service,
    headless_service,
)
from shardedmodel_operator.planning.settings import PlanSettings


def surplus(
    model: ShardedModel,
    spec: ShardedModelSpec,
    view: GroupsView,
    observed: Observed,
    now: datetime,
) -> list[ObjectRef]:
    """StatefulSets and headless Services that should go, for good or to be made anew.

    While the target is not known, a revision that may turn out to be it is kept. Suspended, only
    the target's groups are kept (at no pods): the others could not be made anew as they are. A
    group that the Service no longer selects goes when nothing is sent to it any more.
    """
    keep = {view.target}
    if spec.rollout.strategy == "Surge" and not spec.suspend:
        keep.add(view.current)

    sent_to = {(g.revision, g.index) for g in still_sent_to(view, observed)}

    def goes(revision: str, index: int) -> bool:
        if index >= spec.replicas:
            return True
        if revision in keep:
            return False
        return spec.suspend or (bool(view.target) and (revision, index) not in sent_to)

    refs = []
    for group in view.groups:
        if goes(group.revision, group.index) or group.restart_due(now):
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
        if index not in replicas and any(former_pods(observed, view.target, index)):
            # Their names are taken: the controller would run into them, at growing intervals.
            continue
        if replicas.get(index) != size:
            yield stateful_set(model, spec, layout, view.target, index, settings)
    if view.complete(spec.replicas) and not _serves(model, view, observed):
        yield endpoint_service(model, view.target)


def _serves(model: ShardedModel, view: GroupsView, observed: Observed) -> bool:
    """Whether the model's Service sends to the target already."""
    endpoint = observed.endpoint(model)
    selector = endpoint_selector(model.name, view.target)
    return endpoint is not None and dict(endpoint.selector) == selector


def taken_names(model: ShardedModel, observed: Observed) -> set[tuple[str, str]]:
    """Kind and name of objects that another owner holds or that are on their way out.

    A model that is deleted and made anew meets the objects of its former self, which the garbage
    collector is still removing; they must not be adopted. Orphans are: what was left behind by
    ``--cascade=orphan`` has a name that follows from its content, so it is what would be made.
    """
    return {
        (kind, meta.name)
        for kind, meta in observed.named()
        if meta.owner_uid not in ("", model.uid) or meta.deleting
    }
