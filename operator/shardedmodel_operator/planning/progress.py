"""The progress deadline: a model that does not come nearer to Ready for long is Stalled.

As with Deployments, the clock starts anew at every step. The clock is in status, so that it
outlives the operator.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from shardedmodel_operator.api.status import ShardedModelStatus, ShardingStatus
from shardedmodel_operator.planning.objects import format_time, parse_time


def progress_at(before: ShardedModelStatus, after: ShardedModelStatus, now: datetime) -> str:
    """When a model that is not Ready last came nearer to it, as status says it."""
    if before.progress_at is None or _advanced(before, after):
        return format_time(now)
    return before.progress_at


def _advanced(before: ShardedModelStatus, after: ShardedModelStatus) -> bool:
    """Whether something else is asked for or reached, or more bytes are written or loaded."""
    if _milestones(before) != _milestones(after):
        return True
    return any(new > old for old, new in zip(_amounts(before), _amounts(after), strict=True))


def _milestones(status: ShardedModelStatus) -> tuple[object, ...]:
    sharding = status.sharding or ShardingStatus()
    return (
        status.observed_generation,
        sharding.request_hash,
        sharding.layout_hash,
        status.current_revision,
        status.update_revision,
    )


def _amounts(status: ShardedModelStatus) -> tuple[int, ...]:
    sharding = status.sharding or ShardingStatus()
    held = status.load.ranks_loaded.partition("/")[0] if status.load else ""
    return (
        # Not those of this attempt: one that always fails half-way would always advance.
        sharding.furthest_bytes,
        sum(rank.bytes_done for rank in status.ranks),
        int(held or 0),
        status.ready_replicas,
    )


def deadline(progress: str | None, seconds: int) -> datetime | None:
    """When a model without progress is Stalled; None for one that need not make any."""
    last = parse_time(progress)
    return last + timedelta(seconds=seconds) if last else None
