"""The streaming pass: a checkpoint in, each rank's objects out, each byte read once.

Reading runs ahead of cutting and uploading runs behind it, each in threads of its own with a
budget of buffers of its own, so memory does not grow with the model, its tensors or the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import tee

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
from shardedmodel_runtime.layout.saver import CheckpointSaver
from shardedmodel_runtime.layout.sink import ObjectSink
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.base import ReadableStore


@dataclass(frozen=True, slots=True)
class _Step:
    """One tensor's share of a pass: who gets which columns, and the pieces to read for it."""

    name: str
    rows: RowCut
    receivers: Sequence[tuple[PlannedObject, Share]]
    pieces: tuple[Piece, ...]


class Presharder:
    """Cuts a checkpoint into the objects of a saver.

    Args:
        source: the checkpoint's folder.
        metadata: what is known of the checkpoint.
        plan: how each tensor is cut; the saver was made from the same plan.
        saver: where the pieces go.
        chunk_bytes: largest ranged read.
        in_order: read one range after the other, for a source that wants it so.
    """

    def __init__(
        self,
        source: ReadableStore,
        metadata: CheckpointMetadata,
        plan: ShardingPlan,
        saver: CheckpointSaver,
        *,
        chunk_bytes: int = READ_CHUNK_BYTES,
        in_order: bool = False,
    ) -> None:
        self._source = source
        self._metadata = metadata
        self._plan = plan
        self._saver = saver
        self._chunk_bytes = chunk_bytes
        self._in_order = in_order
        self._digests = {item.key: item.digest for item in metadata.objects}

    def run(self, objects: Sequence[PlannedObject] | None = None) -> None:
        """Write objects of the saver's; the manifest is the caller's to commit.

        Args:
            objects: which ones; all that are missing where none are given.

        Raises:
            SourceChanged: the source is no longer what the plan was made from.
            StorageError: the source cannot be read or the storage not written.
            Terminated: the process was asked to end.
        """
        wanted = self._saver.missing() if objects is None else objects
        for group in self._saver.passes(wanted):
            steps = self._steps(group)
            with self._saver.writing(group) as sink:
                self._stream(steps, sink)

    def _steps(self, objects: Sequence[PlannedObject]) -> Iterator[_Step]:
        """Plan one pass: every tensor that its objects hold, in the order of their bytes."""
        holders = _by_tensor(objects)
        shares: dict[tuple[int, int, int], Share] = {}

        def share(cut: TensorCut, planned: PlannedObject) -> Share:
            place = (id(cut), planned.tensor, planned.expert)
            if place not in shares:
                shares[place] = share_of(cut, planned.tensor, planned.expert)
            return shares[place]

        for name in writing_order(self._plan.cuts):
            if name in holders:
                cut = self._plan.cuts[name]
                rows = row_cut(cut)
                receivers = [
                    (planned, share(cut, planned)) for group in holders[name] for planned in group
                ]
                needed = [share for _, share in receivers]
                pieces = tuple(tensor_pieces(name, rows, self._chunk_bytes, needed))
                yield _Step(name, rows, receivers, pieces)

    def _stream(self, steps: Iterator[_Step], sink: ObjectSink) -> None:
        # Reading runs ahead of cutting; what lies between them is all that there is of the steps.
        for_reading, for_cutting = tee(steps)
        placed = (
            (piece, self._metadata.tensors[step.name])
            for step in for_reading
            for piece in step.pieces
        )
        reads = source_reads(placed, self._chunk_bytes)
        data = read_ahead(
            self._source,
            reads,
            self._digests,
            chunk_bytes=self._chunk_bytes,
            in_order=self._in_order,
        )
        try:
            for step in for_cutting:
                _cut_tensor(step, data, sink)
        finally:
            data.close()


def _by_tensor(objects: Sequence[PlannedObject]) -> dict[str, list[list[PlannedObject]]]:
    """The objects that hold each tensor, in groups that hold the same ones."""
    groups: dict[tuple[str, ...], list[PlannedObject]] = {}
    for planned in objects:
        groups.setdefault(planned.names, []).append(planned)
    holders: dict[str, list[list[PlannedObject]]] = {}
    for names, group in groups.items():
        for name in names:
            holders.setdefault(name, []).append(group)
    return holders


def _cut_tensor(step: _Step, data: Iterator[memoryview], sink: ObjectSink) -> None:
    receivers = [(share, sink.writer(planned).write) for planned, share in step.receivers]
    cutter = TensorCutter(step.rows, receivers)
    for piece in step.pieces:
        cutter.take(piece, next(data))
    cutter.finish()
