"""Conditions that kstatus, Flux, Argo CD and ``kubectl wait`` read alike.

Ready, Available, Sharded, Loaded and GroupFormed are always there; Reconciling and Stalled only
when True, never both, and never beside ``Ready=True``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shardedmodel_operator.api.status import MESSAGE_LIMIT, Condition, ShardedModelStatus
from shardedmodel_operator.planning.objects import format_time

ALWAYS = ("Ready", "Available", "Sharded", "Loaded", "GroupFormed")
Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What one condition says, without its bookkeeping."""

    status: Truth
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What all conditions say."""

    ready: Claim
    available: Claim
    sharded: Claim
    loaded: Claim
    group_formed: Claim
    progress: Literal["Reconciling", "Stalled", ""] = ""
    """Which of the two is present; it repeats Ready's reason and message."""


def conditions(
    claims: Claims, previous: ShardedModelStatus, generation: int, now: datetime
) -> list[Condition]:
    """Turn claims into conditions; one whose status stays keeps its transition time."""
    pairs = list(
        zip(
            ALWAYS,
            (claims.ready, claims.available, claims.sharded, claims.loaded, claims.group_formed),
            strict=True,
        )
    )
    if claims.progress:
        ready = claims.ready
        pairs.append((claims.progress, Claim("True", ready.reason, ready.message)))
    return [_condition(kind, claim, previous, generation, now) for kind, claim in pairs]


def _condition(
    kind: str, claim: Claim, previous: ShardedModelStatus, generation: int, now: datetime
) -> Condition:
    before = previous.condition(kind)
    since = (
        before.last_transition_time
        if before is not None and before.status == claim.status
        else format_time(now)
    )
    return Condition(
        type=kind,
        status=claim.status,
        reason=claim.reason,
        message=claim.message[:MESSAGE_LIMIT],
        observed_generation=generation,
        last_transition_time=since,
    )
