"""The streaming pass: a checkpoint in, each rank's objects out, each byte read once.

Reading runs ahead of cutting and uploading runs behind it, each in threads of its own with a
budget of buffers of its own, so memory does not grow with the model, its tensors or the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.layout.cutting import TensorCutter
from shardedmodel_runtime.layout.objects import PlannedObject
from shardedmodel_runtime.layout.placement import writing_order
from shardedmodel_runtime.layout.prefetch import READ_CHUNK_BYTES, read_ahead
from shardedmodel_runtime.layout.reading import (
    Piece,
    RowCut,
    Share,
    row_cut,
    share_of,
    source_reads,
    tensor_pieces,
)
from shardedmodel_runtime.layout.saver import CheckpointSaver, ObjectSink
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.base import ObjectStore


@dataclass(frozen=True, slots=True)
class _Step:
    """One tensor's share of a wave: who gets which columns, and the pieces to read for it."""

    name: str
    rows: RowCut
    receivers: tuple[tuple[int, Share], ...]
    pieces: tuple[Piece, ...]


class Presharder:
    """Cuts a checkpoint into the objects of a saver.

    Args:
        source: the checkpoint's folder.
        metadata: what is known of the checkpoint.
        plan: how each tensor is cut; the saver was made from the same plan.
        saver: where the pieces go.
        chunk_bytes: largest ranged read.
    """

    def __init__(
        self,
        source: ObjectStore,
        metadata: CheckpointMetadata,
        plan: ShardingPlan,
        saver: CheckpointSaver,
        *,
        chunk_bytes: int = READ_CHUNK_BYTES,
    ) -> None:
        self._source = source
        self._metadata = metadata
        self._plan = plan
        self._saver = saver
        self._chunk_bytes = chunk_bytes
        self._digests = {item.key: item.digest for item in metadata.objects}

    def run(self) -> None:
        """Write all objects; the manifest is the caller's to commit.

        Raises:
            SourceChanged: the source is no longer what the plan was made from.
            StorageError: the source cannot be read or the storage not written.
        """
        for wave in self._saver.waves():
            steps = self._steps(wave)
            with self._saver.writing(wave) as sink:
                self._stream(steps, sink)

    def _steps(self, wave: Sequence[PlannedObject]) -> list[_Step]:
        """Plan one wave: every tensor that its objects hold, in the order of their bytes."""
        holders: dict[str, list[PlannedObject]] = {}
        for planned in wave:
            for name in planned.names:
                holders.setdefault(name, []).append(planned)
        steps = []
        for name in writing_order(self._plan.cuts):
            if name in holders:
                cut = self._plan.cuts[name]
                rows = row_cut(cut)
                # Of the ranks that share an object, one speaks for all.
                receivers = tuple(
                    (planned.ranks[0], share_of(cut, planned.tensor, planned.expert))
                    for planned in holders[name]
                )
                shares = [share for _, share in receivers]
                pieces = tuple(tensor_pieces(name, rows, self._chunk_bytes, shares))
                steps.append(_Step(name, rows, receivers, pieces))
        return steps

    def _stream(self, steps: Sequence[_Step], sink: ObjectSink) -> None:
        placed = (
            (piece, self._metadata.tensors[step.name]) for step in steps for piece in step.pieces
        )
        reads = source_reads(placed, self._chunk_bytes)
        data = read_ahead(self._source, reads, self._digests, chunk_bytes=self._chunk_bytes)
        try:
            for step in steps:
                self._cut_tensor(step, data, sink)
        finally:
            data.close()

    def _cut_tensor(self, step: _Step, data: Iterator[memoryview], sink: ObjectSink) -> None:
        receivers = [(share, _receiver(sink, rank, step.name)) for rank, share in step.receivers]
        cutter = TensorCutter(step.rows, receivers)
        for piece in step.pieces:
            cutter.take(piece, next(data))
        cutter.finish()


def _receiver(sink: ObjectSink, rank: int, tensor: str) -> Callable[[memoryview], None]:
    return lambda data: sink.write(rank, tensor, data)
