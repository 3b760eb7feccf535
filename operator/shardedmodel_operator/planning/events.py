"""Events: what changed between the status that was and the status that is."""

from __future__ import annotations

from shardedmodel_operator.api.status import RankStatus, ShardedModelStatus, ShardingStatus
from shardedmodel_operator.planning.result import EventDraft
from shardedmodel_runtime.report import CACHE_TROUBLE

MB = 1e6
"""Sizes are told in decimal MB."""


def transitions(old: ShardedModelStatus, new: ShardedModelStatus) -> tuple[EventDraft, ...]:
    """Draft the Events of a transition; none when only progress was made."""
    drafts = [
        *_sharding(old, new),
        *_groups(old, new),
        *_readiness(old, new),
        *_cache(old, new),
    ]
    return tuple(drafts)


def _sharding(old: ShardedModelStatus, new: ShardedModelStatus) -> list[EventDraft]:
    before, after = old.sharding or ShardingStatus(), new.sharding or ShardingStatus()
    drafts = []
    started = (after.request_hash, after.attempt)
    if after.attempt and started != (before.request_hash, before.attempt):
        drafts.append(
            EventDraft("Normal", "ShardingStarted", f"pre-shard attempt {after.attempt} was made")
        )
    if after.layout_hash and after.layout_hash != before.layout_hash:
        size, layout = after.bytes / MB, after.layout_hash
        how = (
            f"found the finished layout {layout} in {after.seconds:.1f} s"
            if after.reused
            else f"wrote layout {layout}: {after.objects} objects, {size:.1f} MB in "
            f"{after.seconds:.1f} s"
        )
        drafts.append(EventDraft("Normal", "Sharded", how))
        if after.unmatched_tensors:
            drafts.append(
                EventDraft(
                    "Warning",
                    "TensorsReplicated",
                    f"no rule matches {after.unmatched_tensors} tensors "
                    f"({after.unmatched_bytes / MB:.1f} MB): they are whole on every rank; add "
                    "rules to spec.sharding.rules if they should be cut",
                )
            )
    return drafts


def _groups(old: ShardedModelStatus, new: ShardedModelStatus) -> list[EventDraft]:
    known = {(g.index, g.revision) for g in old.groups}
    drafts = [
        EventDraft("Normal", "GroupStarted", f"group {g.index} of revision {g.revision} was made")
        for g in new.groups
        if (g.index, g.revision) not in known
    ]
    counted = {(g.index, g.revision): g.restarts for g in old.groups}
    drafts += [
        EventDraft(
            "Warning",
            "GroupRestarting",
            f"group {g.index} of revision {g.revision} cannot form and is made anew at "
            f"{g.restart_at}: restart {g.restarts} since {g.restarts_since}",
        )
        for g in new.groups
        if g.restart_at and g.restarts > counted.get((g.index, g.revision), 0)
    ]
    if new.current_revision and new.current_revision != old.current_revision:
        was = f" instead of {old.current_revision}" if old.current_revision else ""
        drafts.append(
            EventDraft(
                "Normal",
                "RevisionSwitched",
                f"the Service sends to revision {new.current_revision}{was}",
            )
        )
    return drafts


def _readiness(old: ShardedModelStatus, new: ShardedModelStatus) -> list[EventDraft]:
    drafts = []
    if new.holds("Loaded") and not old.holds("Loaded") and new.load is not None:
        load = new.load
        drafts.append(
            EventDraft(
                "Normal",
                "Loaded",
                f"{load.ranks_loaded} ranks loaded, slowest {load.duration or 'not reported'}, "
                f"{load.throughput or '?'} GB/s together",
            )
        )
    ready, was = new.condition("Ready"), old.condition("Ready")
    if ready is None or (
        was is not None and (was.status, was.reason) == (ready.status, ready.reason)
    ):
        return drafts
    if ready.status == "True":
        drafts.append(EventDraft("Normal", ready.reason, ready.message))
    elif ready.reason == "Suspended":
        drafts.append(EventDraft("Normal", "Suspended", ready.message))
    elif ready.reason not in PROGRESS_REASONS:
        drafts.append(EventDraft("Warning", ready.reason, ready.message))
    return drafts


def _cache(old: ShardedModelStatus, new: ShardedModelStatus) -> list[EventDraft]:
    """Say once that ranks load without their cache: they do all the same."""
    before = {(rank.group, rank.id, rank.pod) for rank in _without_cache(old)}
    found = [r for r in _without_cache(new) if (r.group, r.id, r.pod) not in before]
    if not found:
        return []
    first, more = found[0], len(found) - 1
    others = f"; so do {more} more ranks" if more else ""
    told = f"rank {first.id} of {first.pod} loads without it: {first.message}{others}"
    return [EventDraft("Warning", "CacheFailed", told)]


def _without_cache(status: ShardedModelStatus) -> list[RankStatus]:
    return [rank for rank in status.ranks if rank.message.startswith(CACHE_TROUBLE)]


PROGRESS_REASONS = frozenset(
    {"ShardingStarting", "Sharding", "Starting", "Loading", "FormingGroup", "Switching"}
)
"""Reasons of Ready=False that are no failures: what they tell has Events of its own."""
