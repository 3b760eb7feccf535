"""What of a model's guards is missing or in the way: its NetworkPolicies and its budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.planning.budget import disruption_budgets
from shardedmodel_operator.planning.group_views import GroupsView
from shardedmodel_operator.planning.guards import changed, unwanted
from shardedmodel_operator.planning.network import network_policies
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_operator.planning.result import ObjectRef
from shardedmodel_operator.planning.settings import PlanSettings


@dataclass(frozen=True, slots=True)
class Protection:
    """Guards to apply and to delete."""

    policies: tuple[dict[str, Any], ...] = ()
    """While there is one, no pod is started: it would talk to whom it may not."""
    budgets: tuple[dict[str, Any], ...] = ()
    delete: tuple[ObjectRef, ...] = ()


def protection(
    model: ShardedModel,
    spec: ShardedModelSpec,
    groups: GroupsView,
    observed: Observed,
    settings: PlanSettings,
) -> Protection:
    """Compare the guards that there should be with those that there are."""
    policies = network_policies(model, spec)
    budgets = disruption_budgets(model, spec, groups, settings)
    return Protection(
        policies=tuple(changed(model, policies, observed.network_policies)),
        budgets=tuple(changed(model, budgets, observed.disruption_budgets)),
        delete=(
            *unwanted(model, "NetworkPolicy", policies, observed.network_policies),
            *unwanted(model, "PodDisruptionBudget", budgets, observed.disruption_budgets),
        ),
    )


def starts_pods(manifest: dict[str, Any]) -> bool:
    """Whether pods come of it: of a Job, and of a StatefulSet that is not at zero."""
    if manifest["kind"] == "StatefulSet":
        return bool(manifest["spec"]["replicas"])
    return bool(manifest["kind"] == "Job")
