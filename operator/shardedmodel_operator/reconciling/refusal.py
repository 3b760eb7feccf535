"""What status says when the API server refuses what the plan wants: pure.

A pod template with a field that the server does not know, a quota that is used up, an admission
controller that says no: the user has to see it on the model, not in the operator's log.
"""

from __future__ import annotations

from datetime import datetime

from shardedmodel_operator.api.status import Condition, ShardedModelStatus
from shardedmodel_operator.errors import ClusterError
from shardedmodel_operator.planning.objects import format_time

STATUS_MESSAGE_LIMIT = 1024
"""Characters of the server's sentence that a condition carries."""


def refused(
    planned: ShardedModelStatus, previous: ShardedModelStatus, error: ClusterError, now: datetime
) -> ShardedModelStatus:
    """The planned status, but Stalled by the refusal and hence not Ready.

    The operator goes on trying at its longest back-off, so that a raised quota heals by itself;
    Stalled says that somebody has to act for that.

    Args:
        planned: what the planner would say had the server agreed.
        previous: what status says now; a condition that does not flip keeps its time.
        error: the refusal.
        now: the time of conditions that flip.
    """
    kept = [c for c in planned.conditions if c.type not in ("Ready", "Reconciling", "Stalled")]
    said = [
        _condition(kind, status, previous, planned.observed_generation, error, now)
        for kind, status in (("Ready", "False"), ("Stalled", "True"))
    ]
    phase = "Degraded" if planned.holds("Available") else "Failed"
    return planned.model_copy(update={"phase": phase, "conditions": [*said, *kept]})


def _condition(
    kind: str,
    status: str,
    previous: ShardedModelStatus,
    generation: int,
    error: ClusterError,
    now: datetime,
) -> Condition:
    before = previous.condition(kind)
    same = before is not None and before.status == status
    return Condition.model_validate(
        {
            "type": kind,
            "status": status,
            "reason": error.reason,
            "message": error.message[:STATUS_MESSAGE_LIMIT],
            "observed_generation": generation,
            "last_transition_time": before.last_transition_time
            if before is not None and same
            else format_time(now),
        }
    )
