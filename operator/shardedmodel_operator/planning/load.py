"""Load metrics and the list of ranks, from what rank 0 of each group reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from shardedmodel_operator.api.status import (
    LISTED_RANKS,
    MAX_GROUPS,
    GroupStatus,
    LoadStatus,
    RankStatus,
)
from shardedmodel_operator.planning.group_views import GroupView
from shardedmodel_operator.planning.objects import Pod
from shardedmodel_runtime.errors import excerpt
from shardedmodel_runtime.report import RankReport

HOLDING = ("loaded", "ready")
"""States of a rank that holds its verified weights."""
GIGA = 1e9
"""Rates are told in decimal GB/s, as networks and disks are sold."""


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank: what the pod tells for sure, and what the report adds."""

    status: RankStatus
    report: RankReport | None

    @property
    def holds_weights(self) -> bool:
        """Whether its weights are loaded and verified."""
        return self.status.state in HOLDING

    @property
    def awaits_report(self) -> bool:
        """Whether it is ready, and what its report says of it is from before.

        Readiness is seen first: rank 0 may not have heard of a rank that came back, and calls it
        lost, or nobody may have told yet how it loaded.
        """
        late = self.report is not None and self.report.state != "ready"
        return self.status.state == "ready" and (late or not tells_load(self.status))


def tells_load(rank: RankStatus) -> bool:
    """Whether the figures of a finished load have come; they may follow readiness."""
    return rank.seconds > 0 and 0 < rank.bytes == rank.bytes_done <= rank.bytes_read


def view_ranks(groups: Iterable[GroupView], previous: Iterable[RankStatus] = ()) -> list[RankView]:
    """Every rank of the groups. Readiness is the pods', figures are the reports'.

    A pod whose report cannot be pulled keeps the figures that status has of it.
    """
    known = {(rank.group, rank.id, rank.pod): rank for rank in previous}
    views = []
    for group in groups:
        reports = {r.rank: r for r in group.report.ranks} if group.report else {}
        pods = {pod.ordinal: pod for pod in group.pods}
        for rank in range(group.ranks):
            pod = pods.get(rank // group.ranks_per_pod)
            report = reports.get(rank)
            if pod is None or (report and report.pod not in ("", pod.meta.name)):
                report = None
            before = known.get((group.index, rank, pod.meta.name if pod else ""))
            views.append(_rank_view(group.index, rank, pod, report, before))
    return views


def _rank_view(
    group: int, rank: int, pod: Pod | None, report: RankReport | None, before: RankStatus | None
) -> RankView:
    figures = _figures(report) if report else before or RankStatus(id=rank)
    if before and pod and pod.ready and tells_load(before) and not tells_load(figures):
        # Rank 0 may have lost sight of it for a moment; a ready pod did not unload.
        figures = before
    place = {
        "id": rank,
        "group": group,
        "pod": pod.meta.name if pod else "",
        "node": pod.node if pod else "",
        "state": _state(pod, report),
    }
    return RankView(figures.model_copy(update=place), report)


def _state(pod: Pod | None, report: RankReport | None) -> str:
    if pod is None:
        return "pending"
    if pod.ready:
        return "ready"
    if pod.running:
        told = report.state if report else "starting"
        # The kubelet has the last word on readiness.
        return "loaded" if told == "ready" else told
    ended = pod.phase == "Failed" or any(container.restarts for container in pod.containers)
    return "failed" if ended else "pending"


def _figures(report: RankReport) -> RankStatus:
    return RankStatus(
        id=report.rank,
        bytes=report.bytes,
        bytes_done=report.bytes_done,
        bytes_read=report.bytes_read,
        seconds=round(report.seconds, 3),
        bytes_per_second=float(round(report.bytes_per_second)),
        device=report.device,
        message=excerpt(report.message),
    )


def listed_ranks(ranks: list[RankView]) -> list[RankStatus]:
    """The ranks for status; of more than fit, those that are not ready and then the slowest."""
    statuses = [rank.status for rank in ranks]
    if len(statuses) > LISTED_RANKS:
        statuses.sort(key=lambda rank: (rank.state == "ready", -rank.seconds))
        statuses = statuses[:LISTED_RANKS]
    return sorted(statuses, key=lambda rank: (rank.group, rank.id))


def load_status(
    ranks: list[RankView], wanted: int, groups: list[GroupView], previous: LoadStatus | None
) -> LoadStatus:
    """How the load went, of ``wanted`` ranks.

    Without any report the figures that status has are kept.
    """
    held = f"{sum(rank.holds_weights for rank in ranks)}/{wanted}"
    reports = [rank.report for rank in ranks if rank.report]
    done = [r for r in reports if r.state in HOLDING and r.seconds > 0]
    if not done:
        return (previous or LoadStatus()).model_copy(update={"ranks_loaded": held})
    slowest = max(done, key=lambda report: report.seconds)
    total = sum(r.bytes for r in done)
    peak = sum(r.peak_memory_bytes for r in done)
    rate = total / slowest.seconds
    return LoadStatus(
        ranks_loaded=held,
        bytes=total,
        max_seconds=round(slowest.seconds, 3),
        p50_seconds=round(median(r.seconds for r in done), 3),
        skew_seconds=round(slowest.seconds - min(r.seconds for r in done), 3),
        aggregate_bytes_per_second=float(round(rate)),
        duration=f"{slowest.seconds:.1f}s",
        throughput=f"{rate / GIGA:.2f}",
        slowest_rank=f"{slowest.rank}@{slowest.pod}",
        join_seconds=round(max((_join_seconds(group) for group in groups), default=0.0), 3),
        memory_efficiency=round(total / peak, 3) if peak else 0.0,
    )


def _join_seconds(group: GroupView) -> float:
    return (group.report.join_seconds or 0.0) if group.report else 0.0


def group_statuses(
    groups: Iterable[GroupView],
    previous: Iterable[GroupStatus],
    remade: Iterable[GroupStatus] = (),
) -> list[GroupStatus]:
    """Every group; of more than fit, the unready ones first. What no object tells is kept."""
    known = {(g.index, g.revision): g.incarnation for g in previous}
    found = [_group_status(g, known.get((g.index, g.revision), 0)) for g in groups]
    found += remade
    if len(found) > MAX_GROUPS:
        found.sort(key=lambda group: (group.ready_ranks == group.ranks, group.index))
        found = found[:MAX_GROUPS]
    return sorted(found, key=lambda group: (group.index, group.revision))


def _group_status(group: GroupView, incarnation: int) -> GroupStatus:
    restarts = group.restarts
    return GroupStatus(
        index=group.index,
        revision=group.revision,
        incarnation=group.report.incarnation if group.report else incarnation,
        restarts=restarts.count,
        restarts_since=restarts.window_start,
        restart_at=restarts.due_at,
        restart_of=restarts.set_uid,
        unready_since=restarts.unready_since,
        container_restarts=sum(c.restarts for pod in group.pods for c in pod.containers),
        ready_ranks=group.ready_pods * group.ranks_per_pod,
        ranks=group.ranks,
        pods_missing_since=group.missing_since,
    )
