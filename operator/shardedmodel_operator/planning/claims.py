"""What each condition says of a situation."""

from __future__ import annotations

from typing import Any

from shardedmodel_operator.planning.conditions import Claim, Claims
from shardedmodel_operator.planning.sharding import ShardingView
from shardedmodel_operator.planning.situation import Situation


def claims_of(seen: Situation) -> Claims:
    """Say all conditions of a model whose spec is valid."""
    ready = _ready_claim(seen)
    progress: Any = "Stalled" if seen.stalled else "Reconciling"
    if ready.status == "True" or seen.spec.suspend:
        progress = ""
    return Claims(
        ready=ready,
        available=available_claim(seen.available, seen.groups.current),
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
        told = seen.fault.message + _retry_note(seen) + _overdue_note(seen)
        return Claim("False", seen.fault.reason, told)
    if seen.overdue_since is not None:
        _, told = _sharding_progress(seen) if not groups.target else loading_progress(seen)
        return Claim("False", "ProgressDeadlineExceeded", told + _overdue_note(seen))
    if not groups.target:
        return Claim("False", *_sharding_progress(seen))
    if groups.complete(spec.replicas):
        return Claim("False", "Switching", "all ranks are ready; the Service is being switched")
    return Claim("False", *loading_progress(seen))


def _overdue_note(seen: Situation) -> str:
    if seen.overdue_since is None:
        return ""
    limit = seen.spec.rollout.progress_deadline_seconds
    allowed = f"spec.rollout.progressDeadlineSeconds ({limit})"
    return f"; no progress since {seen.overdue_since}, which is longer than {allowed} allows"


def _retry_note(seen: Situation) -> str:
    """Say when it is tried again; absolute times, so that the text stays while it waits."""
    sharding = seen.sharding
    if seen.fault is not sharding.fault:
        return ""
    if sharding.retry_at is not None:
        when = sharding.retry_at.strftime("%H:%M:%SZ")
        return f"; attempt {_attempt(sharding) + 1} starts at {when}"
    if sharding.next_attempt is not None and not sharding.waits_for:
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


def loading_progress(seen: Situation) -> tuple[str, str]:
    """How far the ranks are: a reason and a message."""
    states = [rank.status.state for rank in seen.ranks]
    held = sum(rank.holds_weights for rank in seen.ranks)
    wanted = seen.wanted_ranks
    if len(states) < wanted or "pending" in states:
        up = sum(state != "pending" for state in states)
        return "Starting", f"{up} of {wanted} ranks have started"
    if held < wanted:
        return "Loading", f"{held} of {wanted} ranks hold their weights"
    return "FormingGroup", f"all {wanted} ranks hold their weights and form their group"


def available_claim(serving: bool, current: str) -> Claim:
    """Say whether some revision answers."""
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
    return loading_progress(seen)
