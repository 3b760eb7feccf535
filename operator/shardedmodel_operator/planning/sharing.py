"""Layouts that models share: one that goes takes along what no other uses, or is about to make.

Equal requests find the same layout. So a layout is deleted only when nobody has it, loads it or
may be cutting it, and nobody begins to cut one that is being deleted: who came first is seen by
who comes second, since both are in the operator's cache before either is acted on.
"""

from __future__ import annotations

from shardedmodel_operator.api.resource import ShardedModel, spec_request_hash
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.api.status import ShardingStatus
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_runtime.naming import content_hash


def layout_label(uri: str) -> str:
    """Value of the label ``LAYOUT`` for the layout at ``uri``, which is no label itself."""
    return content_hash({"layout": uri})


def layout_to_delete(model: ShardedModel) -> str:
    """Hash of the layout, finished or begun, that goes with a model; empty when none does."""
    told = model.status.sharding
    if told is None or (model.spec is not None and model.spec.storage.retention == "Retain"):
        return ""
    return told.layout_hash or told.unfinished_layout


def layout_uri(spec: ShardedModelSpec, name: str) -> str:
    """Address of the layout of this hash in the storage of ``spec``."""
    return f"{spec.storage.uri.rstrip('/')}/{name}"


def user_of(spec: ShardedModelSpec, name: str, observed: Observed) -> str:
    """Another model that has or loads a layout, or has asked for it; empty when there is none."""
    for other in _living(observed):
        has = other.status.sharding.layout_hash if other.status.sharding else ""
        asks = other.spec is not None and spec_request_hash(other.spec) == spec_request_hash(spec)
        if has == name or asks:
            return _told(other.namespace, other.name)
    label = layout_label(layout_uri(spec, name))
    for namespace, meta in observed.neighbouring_sets:
        if meta.labels.get(labels.LAYOUT) == label and not meta.deleting:
            return _told(namespace, meta.labels[labels.MODEL])
    return ""


def maker_of(spec: ShardedModelSpec, observed: Observed) -> str:
    """Another model that may be cutting the same layout under another request."""
    for other in _living(observed):
        if other.spec is None or not _may_share(spec, other.spec):
            continue
        told = other.status.sharding or ShardingStatus()
        if not told.layout_hash or told.request_hash != spec_request_hash(other.spec):
            return _told(other.namespace, other.name)
    return ""


def deleter_of(spec: ShardedModelSpec, observed: Observed) -> str:
    """A model that goes, and may be deleting what a Job of ``spec`` would make or find."""
    for other in observed.neighbours:
        if not (other.deleting and other.finalized and layout_to_delete(other)):
            continue
        if other.spec is not None and _may_share(spec, other.spec):
            return _told(other.namespace, other.name)
    return ""


def _living(observed: Observed) -> list[ShardedModel]:
    return [other for other in observed.neighbours if not other.deleting]


def _may_share(one: ShardedModelSpec, other: ShardedModelSpec) -> bool:
    """Whether two specs may come to one layout: the same files, reached or called differently."""
    return _terms(one) == _terms(other)


def _terms(spec: ShardedModelSpec) -> tuple[object, ...]:
    rules = [rule.to_rule() for rule in spec.sharding.rules]
    places = spec.source.uri.rstrip("/"), spec.storage.uri.rstrip("/")
    return (*places, spec.parallelism, spec.sharding.dtype, rules)


def _told(namespace: str, name: str) -> str:
    return f"ShardedModel {namespace}/{name}"
