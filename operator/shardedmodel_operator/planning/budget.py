"""The PodDisruptionBudget of a model: no drain takes more than one of its serving groups at a time.

A group that lost a pod is lost as a whole: its other pods are not ready until it has formed anew.
So the budget is the pods of one group. Once one of them was evicted, the others of the group count
as disrupted as well and may be evicted freely, and those of the other groups may not.
"""

from __future__ import annotations

from typing import Any

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.group_views import GroupsView
from shardedmodel_operator.planning.guards import guard
from shardedmodel_operator.planning.services import endpoint_selector
from shardedmodel_operator.planning.settings import PlanSettings


def disruption_budgets(
    model: ShardedModel, spec: ShardedModelSpec, groups: GroupsView, settings: PlanSettings
) -> list[dict[str, Any]]:
    """Make the budget of what serves; none for a single group, which it could only lock in place.

    Only the revision that serves is counted: one that comes up is not ready, and would use up the
    budget for as long as it takes, or for ever.
    """
    pods = max((group.set.replicas for group in groups.of(groups.current)), default=0)
    if not settings.disruption_budgets or spec.replicas < 2 or pods == 0:
        return []
    told = {
        "maxUnavailable": pods,
        "selector": {"matchLabels": endpoint_selector(model.name, groups.current)},
    }
    return [guard(model, "PodDisruptionBudget", model.name, labels.ROLE_ENDPOINT, told)]
