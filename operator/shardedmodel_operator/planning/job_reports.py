"""What the pods of a pre-shard Job tell, as one: the summary at its end, progress until then."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from shardedmodel_operator.api.status import ShardingStatus
from shardedmodel_operator.planning.objects import Job, Pod
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_runtime.report import ShardProgress, ShardSummary


def job_summary(observed: Observed, job: Job) -> ShardSummary | None:
    """What a Job made, as soon as one of its pods tells of the finished layout.

    Each worker tells of the whole layout, but of its own bytes read, seconds and memory.
    """
    told = [s for pod in observed.pods_of(job.meta) for s in _summaries(pod)]
    whole = next((summary for summary in told if summary.complete), None)
    if whole is None:
        return None
    return whole.model_copy(
        update={
            "source_bytes_read": sum(s.source_bytes_read for s in told),
            "seconds": max(s.seconds for s in told),
            "peak_memory_bytes": max(s.peak_memory_bytes for s in told),
        }
    )


def _summaries(pod: Pod) -> Iterable[ShardSummary]:
    for container in pod.containers:
        if container.terminated is not None:
            try:
                yield ShardSummary.read(container.terminated.message)
            except ValidationError:
                continue


def finished_status(summary: ShardSummary, request: str, attempt: int) -> ShardingStatus:
    """What status says of a finished layout."""
    rate = summary.bytes / summary.seconds if summary.seconds and not summary.reused else 0
    return ShardingStatus(
        request_hash=request,
        attempt=attempt,
        layout_hash=summary.layout_hash,
        manifest_uri=summary.manifest_uri,
        objects=summary.objects,
        bytes=summary.bytes,
        bytes_done=summary.bytes,
        bytes_per_second=float(round(rate)),
        seconds=round(summary.seconds, 3),
        source_bytes=summary.source_bytes,
        source_bytes_read=summary.source_bytes_read,
        max_rank_bytes=summary.max_rank_bytes,
        peak_memory_bytes=summary.peak_memory_bytes,
        reused=summary.reused,
        unmatched_tensors=summary.unmatched.tensors,
        unmatched_bytes=summary.unmatched.bytes,
    )


def progress_status(status: ShardingStatus, observed: Observed, job: Job) -> ShardingStatus:
    """Status with how far the Job's pods are, together.

    Each tells of its own share. One that has ended tells no more, so figures never fall while the
    attempt is the same.
    """
    told = _progress(observed, job)
    if status.layout_hash or not told:
        return status
    done = max(sum(p.bytes_done for p in told), status.bytes_done)
    total = max(sum(p.bytes for p in told), status.bytes, done)
    begun = unfinished_layout(observed, job) or status.unfinished_layout
    figures = _figures(told, done, total, status.furthest_bytes)
    return status.model_copy(update={"unfinished_layout": begun, **figures})


def unfinished_layout(observed: Observed, job: Job) -> str:
    """Hash of the layout that a Job's pods write; empty while none tells."""
    return next((p.layout_hash for p in _progress(observed, job) if p.layout_hash), "")


def _progress(observed: Observed, job: Job) -> list[ShardProgress]:
    pods = (pod.meta.name for pod in observed.pods_of(job.meta))
    return [observed.shard_progress[pod] for pod in pods if pod in observed.shard_progress]


def _figures(told: list[ShardProgress], done: int, total: int, furthest: int) -> dict[str, Any]:
    rate = sum(p.bytes_per_second for p in told)
    return {
        "objects": sum(p.objects for p in told),
        "bytes": total,
        "bytes_done": done,
        "furthest_bytes": max(done, furthest),
        "bytes_per_second": float(round(rate)),
        "remaining_seconds": round((total - done) / rate, 1) if rate else None,
        "seconds": round(max(p.seconds for p in told), 1),
    }
