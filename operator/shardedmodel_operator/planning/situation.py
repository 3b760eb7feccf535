"""The situation of a model whose spec is valid: all that its status speaks of."""

from __future__ import annotations

from dataclasses import dataclass

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.planning.failures import Fault, worst
from shardedmodel_operator.planning.group_views import GroupsView
from shardedmodel_operator.planning.load import RankView, view_ranks
from shardedmodel_operator.planning.sharding import ShardingView


@dataclass(frozen=True, slots=True)
class Situation:
    """All that status speaks of, for a valid spec."""

    model: ShardedModel
    spec: ShardedModelSpec
    sharding: ShardingView
    groups: GroupsView
    ranks: tuple[RankView, ...]
    fault: Fault | None
    overdue_since: str | None = None
    """When the last progress was made, once the deadline for more has passed."""

    @property
    def stalled(self) -> bool:
        """Whether it stays as it is until somebody acts, or has for too long."""
        return self.overdue_since is not None or (self.fault is not None and self.fault.stalled)

    @property
    def target_ready(self) -> bool:
        """Whether the Service sends to the target and all its groups are ready."""
        at_zero = self.spec.replicas == 0 and bool(self.groups.target)
        return at_zero or (
            self.groups.complete(self.spec.replicas) and self.groups.current == self.groups.target
        )

    @property
    def available(self) -> bool:
        """Whether some group answers behind the model's Service, of whatever revision."""
        return any(group.ready for group in self.groups.of(self.groups.current))

    @property
    def updating(self) -> bool:
        """Whether an older revision serves while the one that is asked for comes."""
        return bool(self.groups.current) and self.groups.current != self.groups.target

    @property
    def wanted_ranks(self) -> int:
        """Ranks that there should be: of the target, or of what serves while that is not known."""
        if self.spec.suspend:
            return 0
        if self.ranks and not self.groups.target:
            return len(self.ranks)
        return self.spec.parallelism.degrees().world_size * self.spec.replicas


def situation(
    model: ShardedModel,
    spec: ShardedModelSpec,
    sharding: ShardingView,
    groups: GroupsView,
) -> Situation:
    """Put together what status speaks of."""
    target = groups.of(groups.target)
    fault = worst(group.fault for group in target if group.fault is not None)
    if fault is None or fault.reason == "LayoutNotFound":
        # What keeps the Job from making the layout comes before what misses it.
        fault = sharding.fault or fault
    ranks = () if spec.suspend else tuple(view_ranks(groups.focus, model.status.ranks))
    return Situation(model, spec, sharding, groups, ranks, fault)
