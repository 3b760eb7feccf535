"""Status from observation: conditions, phase, and when a change of it is worth a write."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.api.status import GroupStatus, Phase, ShardedModelStatus
from shardedmodel_operator.api.validation import describe
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.conditions import Claim, Claims, conditions
from shardedmodel_operator.planning.failures import Fault, worst
from shardedmodel_operator.planning.group_views import GroupsView
from shardedmodel_operator.planning.load import (
    RankView,
    group_statuses,
    listed_ranks,
    load_status,
    tells_load,
    view_ranks,
)
from shardedmodel_operator.planning.sharding import ShardingView

PROGRESS_SECONDS = 10.0
"""Pure progress is written at most this often: every write wakes every watcher of the model, and
GitOps tools refresh at each."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that status speaks of, for a valid spec."""

    model: ShardedModel
    spec: ShardedModelSpec
    sharding: ShardingView
    groups: GroupsView
    ranks: tuple[RankView, ...]
    fault: Fault | None

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


def status_of(seen: Situation, now: datetime) -> ShardedModelStatus:
    """Derive the whole status of a model whose spec is valid."""
    model, groups = seen.model, seen.groups
    previous = model.status
    same = previous.update_revision == groups.target
    claims = _claims(seen)
    ranks = list(seen.ranks)
    return ShardedModelStatus(
        observed_generation=model.generation,
        phase=_phase(seen),
        current_revision=groups.current,
        update_revision=groups.target,
        sharding=seen.sharding.status,
        replicas=_existing(groups),
        ready_replicas=_ready(groups),
        selector=labels.scale_selector(model.name),
        load=load_status(ranks, _wanted(seen), groups.focus, previous.load if same else None),
        groups=group_statuses(groups.groups, previous.groups, _remade(seen)),
        ranks=listed_ranks(ranks),
        conditions=conditions(claims, previous, model.generation, now),
    )


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
        available=_available_claim(serving, groups.current),
        sharded=unknown,
        loaded=unknown,
        group_formed=unknown,
        progress="Stalled",
    )
    return model.status.model_copy(
        update={
            "observed_generation": model.generation,
            "phase": "Degraded" if serving else "Failed",
            "current_revision": groups.current,
            "replicas": _existing(groups),
            "ready_replicas": _ready(groups),
            "selector": labels.scale_selector(model.name),
            "groups": group_statuses(groups.groups, model.status.groups),
            "conditions": conditions(claims, model.status, model.generation, now),
        }
    )


def _wanted(seen: Situation) -> int:
    """Ranks that there should be: of the target, or of what serves while that is not known."""
    if seen.spec.suspend:
        return 0
    if seen.ranks and not seen.groups.target:
        return len(seen.ranks)
    return seen.spec.parallelism.degrees().world_size * seen.spec.replicas


def _existing(groups: GroupsView) -> int:
    return len({group.index for group in groups.groups if group.set.replicas > 0})


def _ready(groups: GroupsView) -> int:
    return len({group.index for group in groups.groups if group.ready})


def _claims(seen: Situation) -> Claims:
    ready = _ready_claim(seen)
    progress: Any = "Stalled" if seen.fault and seen.fault.stalled else "Reconciling"
    if ready.status == "True" or seen.spec.suspend:
        progress = ""
    return Claims(
        ready=ready,
        available=_available_claim(seen.available, seen.groups.current),
        sharded=_sharded_claim(seen),
        loaded=_loaded_claim(seen),
        group_formed=_formed_claim(seen),
        progress=progress,
    )


def _ready_claim(seen: Situation) -> Claim:
    spec, groups = seen.spec, seen.groups
    if spec.suspend:
        return Claim("False", "Suspended", "no ranks run: spec.suspend is true")
    if seen.target_ready:
        if spec.replicas == 0:
            return Claim("True", "ScaledToZero", "the layout is there; spec.replicas is 0")
        return Claim("True", "Ready", f"all {len(seen.ranks)} ranks hold their verified weights")
    if seen.fault is not None:
        return Claim("False", seen.fault.reason, seen.fault.message + _retry_note(seen))
    if not groups.target:
        return Claim("False", *_sharding_progress(seen))
    if groups.complete(spec.replicas):
        return Claim("False", "Switching", "all ranks are ready; the Service is being switched")
    return Claim("False", *_loading_progress(seen))


def _retry_note(seen: Situation) -> str:
    """Say when it is tried again; absolute times, so that the text stays while it waits."""
    sharding = seen.sharding
    if seen.fault is not sharding.fault:
        return ""
    if sharding.retry_at is not None:
        when = sharding.retry_at.strftime("%H:%M:%SZ")
        return f"; attempt {_attempt(sharding) + 1} starts at {when}"
    if sharding.next_attempt is not None:
        return f"; attempt {sharding.next_attempt} starts now"
    if _attempt(sharding) > 1 and sharding.job and not sharding.job.finished:
        return f"; attempt {_attempt(sharding)} is under way"
    return ""


def _attempt(sharding: ShardingView) -> int:
    return sharding.job.attempt if sharding.job else 0


def _sharding_progress(seen: Situation) -> tuple[str, str]:
    job = seen.sharding.job
    if job is None or not seen.sharding.running:
        return "ShardingStarting", "the pre-shard Job's pod is starting"
    return "Sharding", f"Job {job.meta.name} cuts the checkpoint; status.sharding has its progress"


def _loading_progress(seen: Situation) -> tuple[str, str]:
    states = [rank.status.state for rank in seen.ranks]
    held = sum(rank.holds_weights for rank in seen.ranks)
    wanted = _wanted(seen)
    if len(states) < wanted or "pending" in states:
        up = sum(state != "pending" for state in states)
        return "Starting", f"{up} of {wanted} ranks have started"
    if held < wanted:
        return "Loading", f"{held} of {wanted} ranks hold their weights"
    return "FormingGroup", f"all {wanted} ranks hold their weights and form their group"


def _available_claim(serving: bool, current: str) -> Claim:
    if serving:
        return Claim("True", "Serving", f"revision {current} answers")
    if current:
        return Claim("False", "NoReadyGroup", f"no group of revision {current} is ready")
    return Claim("False", "NeverReady", "no revision has been ready yet")


def _sharded_claim(seen: Situation) -> Claim:
    sharding = seen.sharding
    if sharding.layout is not None:
        return Claim("True", "LayoutReady", f"layout {sharding.layout.uri}")
    if seen.spec.suspend and (sharding.job is None or sharding.job.finished):
        return Claim("False", "Suspended", "no Job is started: spec.suspend is true")
    if sharding.fault is not None:
        return Claim("False", sharding.fault.reason, sharding.fault.message + _retry_note(seen))
    return Claim("False", *_sharding_progress(seen))


def _loaded_claim(seen: Situation) -> Claim:
    early = _too_early(seen)
    if early is not None:
        return early
    if seen.ranks and all(r.holds_weights for r in seen.ranks) and _all_exist(seen):
        return Claim("True", "Loaded", f"all {len(seen.ranks)} ranks hold verified weights")
    return Claim("False", *_cause(seen))


def _formed_claim(seen: Situation) -> Claim:
    early = _too_early(seen)
    if early is not None:
        return early
    target = seen.groups.of(seen.groups.target)
    if _all_exist(seen) and all(g.ready or (g.report and g.report.formed) for g in target):
        return Claim("True", "GroupFormed", f"{len(target)} of {len(target)} groups formed")
    return Claim("False", *_cause(seen))


def _too_early(seen: Situation) -> Claim | None:
    if seen.spec.suspend:
        return Claim("False", "Suspended", "no ranks run: spec.suspend is true")
    if not seen.groups.target:
        return Claim("Unknown", "WaitingForLayout", "ranks start when the layout is there")
    if seen.spec.replicas == 0:
        return Claim("Unknown", "ScaledToZero", "no ranks run: spec.replicas is 0")
    return None


def _all_exist(seen: Situation) -> bool:
    return len(seen.groups.of(seen.groups.target)) >= seen.spec.replicas


def _cause(seen: Situation) -> tuple[str, str]:
    if seen.fault is not None:
        return seen.fault.reason, seen.fault.message
    return _loading_progress(seen)


def _phase(seen: Situation) -> Phase:
    if seen.spec.suspend:
        return "Suspended"
    if seen.target_ready:
        return "Ready"
    stalled = seen.fault is not None and seen.fault.stalled
    if seen.available and seen.fault is not None and (stalled or not seen.updating):
        # It serves, but a group of it is broken, or the update cannot go on.
        return "Degraded"
    if stalled:
        return "Failed"
    if seen.updating:
        return "Updating"
    if seen.fault is not None and seen.fault.reason == "Unschedulable":
        return "Pending"
    if not seen.groups.target:
        return "Sharding" if seen.sharding.running or seen.fault else "Pending"
    return "Starting" if _loading_progress(seen)[0] == "Starting" else "Loading"


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
