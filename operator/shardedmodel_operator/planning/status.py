"""Status from observation: conditions, phase, and when a change of it is worth a write."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.status import GroupStatus, Phase, ShardedModelStatus
from shardedmodel_operator.api.validation import describe
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.claims import available_claim, claims_of, loading_progress
from shardedmodel_operator.planning.conditions import Claim, Claims, conditions
from shardedmodel_operator.planning.group_views import GroupsView
from shardedmodel_operator.planning.load import (
    group_statuses,
    listed_ranks,
    load_status,
    tells_load,
)
from shardedmodel_operator.planning.progress import deadline, progress_at
from shardedmodel_operator.planning.situation import Situation

PROGRESS_SECONDS = 10.0
"""Pure progress is written at most this often: every write wakes every watcher of the model, and
GitOps tools refresh at each."""


def status_of(seen: Situation, now: datetime) -> ShardedModelStatus:
    """Derive the whole status of a model whose spec is valid."""
    model, groups = seen.model, seen.groups
    previous = model.status
    same = previous.update_revision == groups.target
    ranks = list(seen.ranks)
    told = ShardedModelStatus(
        observed_generation=model.generation,
        current_revision=groups.current,
        update_revision=groups.target,
        sharding=seen.sharding.status,
        replicas=_existing(groups),
        ready_replicas=_ready(groups),
        selector=labels.scale_selector(model.name),
        load=load_status(ranks, seen.wanted_ranks, groups.focus, previous.load if same else None),
        groups=group_statuses(groups.groups, previous.groups, _remade(seen)),
        ranks=listed_ranks(ranks),
    )
    idle = seen.target_ready or seen.spec.suspend
    since = None if idle else progress_at(previous, told, now)
    due = deadline(since, seen.spec.rollout.progress_deadline_seconds)
    if due is not None and now >= due:
        seen = replace(seen, overdue_since=since)
    judged = {
        "phase": _phase(seen),
        "progress_at": since,
        "conditions": conditions(claims_of(seen), previous, model.generation, now),
    }
    return told.model_copy(update=judged)


def _remade(seen: Situation) -> list[GroupStatus]:
    """Groups of the target that do not exist at this moment: their restarts are remembered."""
    target = seen.groups.target
    there = {group.index for group in seen.groups.of(target)}
    return [
        known.model_copy(update={"ready_ranks": 0, "container_restarts": 0})
        for known in seen.model.status.groups
        if known.revision == target
        and known.index < seen.spec.replicas
        and known.index not in there
    ]


def invalid_status(model: ShardedModel, groups: GroupsView, now: datetime) -> ShardedModelStatus:
    """Status of a spec that cannot be meant: what runs goes on and is reported on."""
    told = describe(model.problems)
    unknown = Claim("Unknown", "InvalidSpec", "not judged: the spec is not valid")
    serving = any(group.ready for group in groups.of(groups.current))
    claims = Claims(
        ready=Claim("False", "InvalidSpec", told),
        available=available_claim(serving, groups.current),
        sharded=unknown,
        loaded=unknown,
        group_formed=unknown,
        progress="Stalled",
    )
    return model.status.model_copy(
        update={
            "observed_generation": model.generation,
            "phase": "Degraded" if serving else "Failed",
            "progress_at": None,
            "current_revision": groups.current,
            "replicas": _existing(groups),
            "ready_replicas": _ready(groups),
            "selector": labels.scale_selector(model.name),
            "groups": group_statuses(groups.groups, model.status.groups),
            "conditions": conditions(claims, model.status, model.generation, now),
        }
    )


def _existing(groups: GroupsView) -> int:
    return len({group.index for group in groups.groups if group.set.replicas > 0})


def _ready(groups: GroupsView) -> int:
    return len({group.index for group in groups.groups if group.ready})


def _phase(seen: Situation) -> Phase:
    if seen.spec.suspend:
        return "Suspended"
    if seen.target_ready:
        return "Ready"
    if seen.available and (seen.stalled or (seen.fault is not None and not seen.updating)):
        # It serves, but a group of it is broken, or the update cannot go on.
        return "Degraded"
    if seen.stalled:
        return "Failed"
    if seen.updating:
        return "Updating"
    if seen.fault is not None and seen.fault.reason == "Unschedulable":
        return "Pending"
    if not seen.groups.target:
        return "Sharding" if seen.sharding.running or seen.fault else "Pending"
    return "Starting" if loading_progress(seen)[0] == "Starting" else "Loading"


def worth_writing(
    old: ShardedModelStatus, new: ShardedModelStatus, last_write: datetime | None, now: datetime
) -> bool:
    """Whether to write ``new`` over ``old`` now.

    A change of state always is; pure progress (bytes, seconds, counts of ranks, messages) once
    in ``PROGRESS_SECONDS``. The caller looks again after that time when it was told no.
    """
    if old == new:
        return False
    if last_write is None or now - last_write >= timedelta(seconds=PROGRESS_SECONDS):
        return True
    return _state(old) != _state(new)


def _state(status: ShardedModelStatus) -> tuple[object, ...]:
    """What of a status is state and not progress."""
    sharding = status.sharding
    return (
        status.observed_generation,
        status.phase,
        status.current_revision,
        status.update_revision,
        status.replicas,
        status.ready_replicas,
        (sharding.request_hash, sharding.attempt, sharding.layout_hash) if sharding else None,
        [(g.index, g.revision, g.incarnation, g.restarts, g.restart_at) for g in status.groups],
        [(c.type, c.status, c.reason) for c in status.conditions],
        all(tells_load(rank) for rank in status.ranks),
    )
