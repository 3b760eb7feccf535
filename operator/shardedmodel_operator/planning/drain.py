"""When a former revision may go: after the Service has left its pods, not when it should have.

The Service's selector is changed by the operator, its addresses by the controller of endpoints,
which may be behind: after a restart of the API server by seconds. Pods that go before that leave
the Service with the addresses of nobody.
"""

from __future__ import annotations

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.planning.group_views import GroupsView, GroupView
from shardedmodel_operator.planning.observed import Observed


def asks(model: ShardedModel, observed: Observed) -> bool:
    """Whether ``Observed.sent_to`` matters: ready pods exist that the Service does not select.

    Not while it still selects the former revision, and the new one's pods become ready.
    """
    endpoint = observed.endpoint(model)
    if model.deleting or endpoint is None or not endpoint.revision:
        return False
    if model.status.update_revision not in ("", endpoint.revision):
        return False
    return any(
        pod.ready
        for group in observed.stateful_sets
        if group.meta.owner_uid == model.uid and group.meta.revision != endpoint.revision
        for pod in observed.pods_of(group.meta)
    )


def still_sent_to(view: GroupsView, observed: Observed) -> list[GroupView]:
    """Groups that the Service does not select and whose pods it sends to still."""
    return [
        group
        for group in view.groups
        if group.revision != view.current
        and any(pod.meta.name in observed.sent_to for pod in group.pods)
    ]
