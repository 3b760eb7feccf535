"""What a Job made or found, as it tells when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.saver import CheckpointSaver
from shardedmodel_runtime.memory import peak_memory_bytes
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.report import ReplicatedSummary, ShardSummary
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.uri import join_uri

SUMMARY_EXAMPLES = 5
"""Names of tensors that no rule matched, in a summary that must fit 4 KiB."""
SUMMARY_NAME_LENGTH = 200
"""Characters of each of them."""


def summary_of(
    metadata: CheckpointMetadata,
    plan: ShardingPlan,
    saver: CheckpointSaver,
    manifest: Manifest | None,
    *,
    worker: int,
    seconds: float,
    source_bytes_read: int,
    reused: bool,
) -> ShardSummary:
    """Tell of a layout.

    Args:
        metadata: of the source.
        plan: by which it was cut.
        saver: who wrote it.
        manifest: of the finished layout; None: other workers have not finished.
        worker: which of the workers tells.
        seconds: what it took.
        source_bytes_read: bytes of tensors that were read of the source.
        reused: whether the layout was found finished.
    """
    names = [name[:SUMMARY_NAME_LENGTH] for name in plan.unmatched[:SUMMARY_EXAMPLES]]
    sizes = [(item.ranks, item.size) for item in saver.objects]
    if manifest is not None:
        sizes = [(tuple(item.ranks), item.bytes) for item in manifest.objects]
    return ShardSummary(
        layout_hash=saver.layout_hash,
        manifest_uri=join_uri(saver.store.uri, MANIFEST_KEY),
        objects=len(sizes),
        bytes=sum(size for _, size in sizes),
        source_bytes=metadata.total_bytes,
        source_bytes_read=source_bytes_read,
        max_rank_bytes=_max_rank_bytes(sizes),
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(),
        reused=reused,
        complete=manifest is not None,
        worker=worker,
        unmatched=ReplicatedSummary(
            tensors=len(plan.unmatched), bytes=plan.unmatched_bytes, examples=names
        ),
    )


def _max_rank_bytes(sizes: Iterable[tuple[Sequence[int], int]]) -> int:
    loads: dict[int, int] = {}
    for ranks, size in sizes:
        for rank in ranks:
            loads[rank] = loads.get(rank, 0) + size
    return max(loads.values())
