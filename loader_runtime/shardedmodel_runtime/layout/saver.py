"""Writes the objects of a layout, and the manifest that makes a layout of them.

The saver owns the writers and the memory that they take; who calls it brings the bytes: the
pre-sharder cuts them out of a checkpoint, a rank has them in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import shardedmodel_runtime
from shardedmodel_runtime.errors import LayoutError
from shardedmodel_runtime.layout.buffers import BufferPool
from shardedmodel_runtime.layout.manifest import (
    BLOCK_ALGORITHM,
    BLOCK_BYTES,
    LayoutObject,
    Manifest,
    ManifestCut,
    ManifestParallelism,
    ManifestSource,
)
from shardedmodel_runtime.layout.objects import PlannedObject, plan_objects
from shardedmodel_runtime.layout.writer import StreamingWriter
from shardedmodel_runtime.naming import LAYOUT_FORMAT, LAYOUT_FORMAT_VERSION, MANIFEST_KEY
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.base import ObjectStore

WRITE_BUFFER_BYTES = 192 * 1024 * 1024
"""Default budget of part buffers: a quarter GiB together with the read-ahead of a pre-shard."""
MIN_PART_BYTES = 5 * 1024 * 1024
"""Smallest part but the last that S3 takes (S3 user guide, multipart upload limits)."""
MAX_PART_BYTES = 16 * 1024 * 1024
"""Beyond it parts no longer save requests worth their memory; equals the checksums' block."""
PARTS_IN_FLIGHT = 4
"""Uploads at a time. 2, 4 and 8 measured alike where server and client share two cores; on S3
one connection takes some 90 MB/s, so four keep up with what one core can digest and sign."""


class ObjectSink:
    """The open objects of one wave: takes each object's tensors in the order of its plan."""

    def __init__(self, writers: Sequence[tuple[PlannedObject, StreamingWriter]]) -> None:
        self._places = {
            (rank, name): writer
            for planned, writer in writers
            for rank in planned.ranks
            for name in planned.names
        }

    def write(self, rank: int, tensor: str, data: memoryview) -> None:
        """Append bytes to a tensor's piece; a replicated one is written for any one rank.

        Args:
            rank: a rank that holds the piece.
            tensor: its name; tensors come in the order of the object's plan.
            data: the next bytes of the piece, C-contiguous.

        Raises:
            LayoutError: the piece is in none of the open objects.
            StorageError: an earlier part could not be stored.
        """
        writer = self._places.get((rank, tensor))
        if writer is None:
            raise LayoutError(f"tensor {tensor!r} of rank {rank} is in no open object")
        writer.write(data)


class CheckpointSaver:
    """Saves one layout: objects in waves that fit the budget, then the manifest.

    Example:
        >>> saver = CheckpointSaver(store, plan, layout_hash)          # doctest: +SKIP
        >>> for wave in saver.waves():                                 # doctest: +SKIP
        ...     with saver.writing(wave) as sink:
        ...         for rank, tensor, data in pieces(wave):
        ...             sink.write(rank, tensor, data)
        >>> manifest = saver.commit(source)                            # doctest: +SKIP

    Args:
        store: the layout's own folder (``<storage.uri>/<layoutHash>``).
        plan: how each tensor is cut.
        layout_hash: the layout's name.
        buffer_bytes: budget of part buffers; what is written at a time follows from it.
        objects: what to write; all objects of the plan where none are given.
    """

    def __init__(
        self,
        store: ObjectStore,
        plan: ShardingPlan,
        layout_hash: str,
        *,
        buffer_bytes: int = WRITE_BUFFER_BYTES,
        objects: Sequence[PlannedObject] | None = None,
    ) -> None:
        self._store = store
        self._plan = plan
        self._layout_hash = layout_hash
        self._buffer_bytes = buffer_bytes
        self.objects = tuple(plan_objects(plan) if objects is None else objects)
        self._saved: dict[str, LayoutObject] = {}
        self._lock = threading.Lock()
        self._bytes_written = 0
        self._peak_buffer_bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes of all objects."""
        return sum(planned.size for planned in self.objects)

    @property
    def bytes_written(self) -> int:
        """Bytes that the store has taken so far."""
        return self._bytes_written

    @property
    def peak_buffer_bytes(self) -> int:
        """The most bytes of part buffers that there were at once."""
        return self._peak_buffer_bytes

    def waves(self) -> list[tuple[PlannedObject, ...]]:
        """Group the objects into those that are written at a time.

        One wave where the budget has a part for each (34 objects by default), so that a source
        is read once; more ranks than that make more waves rather than more memory.
        """
        at_once = max(self._buffer_bytes // MIN_PART_BYTES - PARTS_IN_FLIGHT, 1)
        return [self.objects[i : i + at_once] for i in range(0, len(self.objects), at_once)]

    def part_bytes(self, wave: Sequence[PlannedObject]) -> int:
        """Part size with which one wave's buffers fit the budget, in whole MiB."""
        share = self._buffer_bytes // (len(wave) + PARTS_IN_FLIGHT)
        whole = share // 2**20 * 2**20
        return min(max(whole, MIN_PART_BYTES), MAX_PART_BYTES)

    @contextmanager
    def writing(self, wave: Sequence[PlannedObject]) -> Iterator[ObjectSink]:
        """Open a wave's objects; they are finished at the end, or dropped on an error.

        Raises:
            LayoutError: an object got fewer or more bytes than planned.
            StorageError: the store did not take them.
        """
        part_bytes = self.part_bytes(wave)
        pool = BufferPool(max(self._buffer_bytes, (len(wave) + 1) * part_bytes))
        with ExitStack() as stack:
            executor = stack.enter_context(
                ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="upload")
            )
            writers = [
                (planned, self._open(planned, part_bytes, pool, executor, stack))
                for planned in wave
            ]
            yield ObjectSink(writers)
            for planned, writer in writers:
                self._finish(planned, writer)
        self._peak_buffer_bytes = max(self._peak_buffer_bytes, pool.peak_bytes)

    def commit(self, source: ManifestSource) -> Manifest:
        """Write the manifest, which makes a layout of the objects.

        Another process may have committed the same layout meanwhile, from the same plan and
        hence with the same bytes; its manifest stands.

        Raises:
            LayoutError: objects have not been written yet.
        """
        missing = [item.key for item in self.objects if item.key not in self._saved]
        if missing:
            raise LayoutError(f"{len(missing)} objects are not written yet, {missing[0]} first")
        manifest = make_manifest(
            self._plan, self._layout_hash, source, [self._saved[o.key] for o in self.objects]
        )
        self._store.write(MANIFEST_KEY, manifest.to_bytes(), if_absent=True)
        return manifest

    def _open(
        self,
        planned: PlannedObject,
        part_bytes: int,
        pool: BufferPool,
        executor: ThreadPoolExecutor,
        stack: ExitStack,
    ) -> StreamingWriter:
        writer = StreamingWriter(
            self._store.open_writer(planned.key, planned.size, part_bytes),
            planned.key,
            planned.size,
            pool,
            executor,
            self._add_written,
        )
        stack.callback(writer.abort)  # after a commit there is nothing left to drop
        writer.write(memoryview(planned.header))
        return writer

    def _finish(self, planned: PlannedObject, writer: StreamingWriter) -> None:
        sha256, blocks = writer.finish()
        self._saved[planned.key] = LayoutObject(
            key=planned.key,
            ranks=list(planned.ranks),
            bytes=planned.size,
            sha256=sha256,
            blocks=blocks,
            data_start=planned.data_start,
            tensors=list(planned.runs),
        )

    def _add_written(self, count: int) -> None:
        with self._lock:
            self._bytes_written += count


def make_manifest(
    plan: ShardingPlan,
    layout_hash: str,
    source: ManifestSource,
    objects: Sequence[LayoutObject],
) -> Manifest:
    """Put together what a manifest says of a plan and its written objects."""
    return Manifest(
        format=LAYOUT_FORMAT,
        version=LAYOUT_FORMAT_VERSION,
        layout_hash=layout_hash,
        created_by=f"shardedmodel {shardedmodel_runtime.__version__}",
        source=source,
        parallelism=ManifestParallelism(**plan.parallelism.as_dict()),
        dtype=plan.dtype,
        plan_digest=plan.digest(),
        block_bytes=BLOCK_BYTES,
        block_algorithm=BLOCK_ALGORITHM,
        cuts=[ManifestCut.of(cut) for cut in plan.kinds],
        entries=list(zip(plan.cuts, plan.kind_of, strict=True)),
        objects=list(objects),
    )
