"""Writes the objects of a layout, and the manifest that makes a layout of them.

The saver owns the writers and the memory that they take; who calls it brings the bytes: the
pre-sharder cuts them out of a checkpoint, a rank has them in memory.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from shardedmodel_runtime.errors import LayoutError, StorageError
from shardedmodel_runtime.layout.buffers import BufferPool
from shardedmodel_runtime.layout.manifest import BLOCK_ALGORITHM, BLOCK_BYTES, Manifest
from shardedmodel_runtime.layout.manifest_content import (
    LayoutObject,
    ManifestCut,
    ManifestParallelism,
    ManifestRule,
    ManifestSource,
)
from shardedmodel_runtime.layout.objects import PlannedObject, plan_objects
from shardedmodel_runtime.layout.placement import writing_order
from shardedmodel_runtime.layout.records import (
    RECORD_BYTES_LIMIT,
    find_finished,
    layout_object,
    leave_record,
    record_key,
)
from shardedmodel_runtime.layout.scheduling import most_open, passes
from shardedmodel_runtime.layout.sink import ObjectSink
from shardedmodel_runtime.layout.uploads import PARTS_IN_FLIGHT, Uploads
from shardedmodel_runtime.layout.writer import StreamingWriter
from shardedmodel_runtime.naming import LAYOUT_FORMAT, LAYOUT_FORMAT_VERSION, MANIFEST_KEY
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.version import __version__

logger = logging.getLogger(__name__)

WRITE_BUFFER_BYTES = 345 * 1024 * 1024
"""Default budget of part buffers: S3's smallest parts of 64 ranks' objects and a common one, and
those in flight. With reads and the program itself, a pre-shard takes less than half a GiB."""
RECORD_THREADS = 16
"""Records that are looked for side by side: small requests, which mostly wait."""


class CheckpointSaver:
    """Saves one layout: objects in passes that fit the budget, then the manifest.

    Example:
        >>> saver = CheckpointSaver(store, plan, layout_hash)          # doctest: +SKIP
        >>> saver.find_finished()                                      # doctest: +SKIP
        >>> for group in saver.passes(saver.missing()):                # doctest: +SKIP
        ...     with saver.writing(group) as sink:
        ...         for rank, tensor, data in pieces(group):
        ...             sink.write(rank, tensor, data)
        >>> manifest = saver.commit(source)                            # doctest: +SKIP

    Args:
        store: the layout's own folder (``<storage.uri>/<layoutHash>``).
        plan: how each tensor is cut.
        layout_hash: the layout's name.
        buffer_bytes: budget of part buffers; what is written at a time follows from it.
        objects: the layout's objects; those of the plan where none are given.
        stop: once it is set, writing ends with ``Terminated`` and drops what is unfinished.
        leave_records: of each finished object, so that whoever resumes does not make it again.
    """

    def __init__(
        self,
        store: ObjectStore,
        plan: ShardingPlan,
        layout_hash: str,
        *,
        buffer_bytes: int = WRITE_BUFFER_BYTES,
        objects: Sequence[PlannedObject] | None = None,
        stop: threading.Event | None = None,
        leave_records: bool = True,
    ) -> None:
        self.store = store
        self._plan = plan
        self.layout_hash = layout_hash
        self._buffer_bytes = buffer_bytes
        self._stop = stop or threading.Event()
        self._leave_records = leave_records
        self.objects = tuple(plan_objects(plan) if objects is None else objects)
        self.order = {name: number for number, name in enumerate(writing_order(plan.cuts))}
        self._saved: dict[str, LayoutObject] = {}
        self._unrecorded: list[PlannedObject] = []
        self._sink: ObjectSink | None = None
        self._lock = threading.Lock()
        self._bytes_written = 0

    @property
    def saved(self) -> list[LayoutObject]:
        """What the manifest will say of the objects that are written or found so far."""
        return list(self._saved.values())

    @property
    def unrecorded(self) -> list[PlannedObject]:
        """The objects that this one has published without a record."""
        return list(self._unrecorded)

    def take(self, entries: Iterable[LayoutObject]) -> None:
        """Take objects for written that other processes wrote."""
        self._saved.update({item.key: item for item in entries})

    @property
    def bytes_written(self) -> int:
        """Bytes that the store has taken so far."""
        return self._bytes_written

    def find_finished(self) -> None:
        """Look for objects that were finished before, or by others; they are not written again.

        Raises:
            StorageError: the store cannot be read.
        """
        missing = self.missing()
        with ThreadPoolExecutor(RECORD_THREADS, thread_name_prefix="record") as executor:
            for found in executor.map(lambda item: find_finished(self.store, item), missing):
                if found is not None:
                    self._saved[found.key] = found

    def missing(self) -> list[PlannedObject]:
        """The objects that are neither written nor found."""
        return [planned for planned in self.objects if planned.key not in self._saved]

    def passes(self, objects: Sequence[PlannedObject]) -> list[tuple[PlannedObject, ...]]:
        """Group objects into those that are written in one pass over the source.

        One pass where the budget has a part for each object that is open at once (65 on S3 by
        default); more ranks than that make more passes rather than more memory.
        """
        at_once = max(self._buffer_bytes // self.store.part_limits[0] - PARTS_IN_FLIGHT, 1)
        return passes(objects, self.order, at_once)

    def part_bytes(self, open_objects: int) -> int:
        """Part size with which so many open objects fit the budget, in whole MiB."""
        share = self._buffer_bytes // (open_objects + PARTS_IN_FLIGHT)
        smallest, largest = self.store.part_limits
        return min(max(share // 2**20 * 2**20, smallest), largest)

    @contextmanager
    def writing(self, objects: Sequence[PlannedObject]) -> Iterator[ObjectSink]:
        """Write a pass's objects: each is published when its last byte has come.

        At the end all are; on an error, those that are not are dropped.

        Raises:
            LayoutError: an object got fewer or more bytes than planned.
            StorageError: the store did not take them.
            Terminated: the process was asked to end.
        """
        open_objects = most_open(objects, self.order)
        part_bytes = self.part_bytes(open_objects)
        # No more than is used: memory that is taken for the first time costs as much as a copy.
        in_flight = max(min(PARTS_IN_FLIGHT, self._buffer_bytes // part_bytes - open_objects), 1)
        pool = BufferPool((open_objects + in_flight) * part_bytes)
        uploads = Uploads(pool, self._stop)
        sink = ObjectSink(objects, lambda planned: self._open(planned, part_bytes, uploads))
        self._sink = sink
        try:
            yield sink
            for planned in objects:
                sink.writer(planned).require_all()
            uploads.join()
        finally:
            uploads.close()
            sink.abort()  # after a commit there is nothing left to drop

    def abandon(self, seconds: float) -> None:
        """Drop what is being written, from another thread, without waiting for its requests.

        For a process that ends then.

        Args:
            seconds: how long the store may take for it.
        """
        left = self._sink.abandon(seconds) if self._sink else 0
        if left:
            logger.warning(
                "%s: %d objects could not be dropped in time; what is left of them goes when the "
                "layout is finished or deleted",
                self.store.uri,
                left,
            )

    def commit(self, source: ManifestSource) -> Manifest:
        """Write the manifest, which makes a layout of the objects.

        Another process may have committed the same layout meanwhile, from the same plan and
        hence with the same bytes; its manifest stands.

        Raises:
            LayoutError: objects have not been written yet.
            StorageError: the store did not take it.
        """
        missing = self.missing()
        if missing:
            raise LayoutError(f"{len(missing)} objects are not written yet, {missing[0].key} first")
        manifest = make_manifest(
            self._plan, self.layout_hash, source, [self._saved[o.key] for o in self.objects]
        )
        self.store.write(MANIFEST_KEY, manifest.to_bytes(), if_absent=True)
        self._drop_records()
        return manifest

    def drop_records_left(self) -> None:
        """Delete the records of a layout whose Job was killed after its commit, before it did."""
        try:
            self.store.read(record_key(self.objects[0].key), limit=RECORD_BYTES_LIMIT)
        except StorageError as error:  # not there; or nothing that this Job has to do with
            logger.debug("%s: no record is left: %s", self.store.uri, error)
        else:
            self._drop_records()

    def _drop_records(self) -> None:
        """Delete the records: a layout that is made anew some day is to be made of the source.

        The first goes last, so that it tells whether any are left.
        """
        first, *others = (record_key(planned.key) for planned in self.objects)
        try:
            with ThreadPoolExecutor(RECORD_THREADS, thread_name_prefix="record") as executor:
                list(executor.map(self.store.delete, others))
            self.store.delete(first)
        except StorageError as error:  # credentials that may write need not be allowed to delete
            logger.warning("%s: records of objects are left behind: %s", self.store.uri, error)

    def _open(self, planned: PlannedObject, part_bytes: int, uploads: Uploads) -> StreamingWriter:
        def published(sha256: str, blocks: list[str]) -> None:
            if self._leave_records:
                leave_record(self.store, planned, sha256, blocks)
            else:
                self._unrecorded.append(planned)
            self._saved[planned.key] = layout_object(planned, sha256, blocks)

        return StreamingWriter(
            self.store.open_writer(planned.key, planned.size, part_bytes),
            planned.key,
            planned.size,
            uploads,
            self._add_written,
            published,
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
        created_by=f"shardedmodel {__version__}",
        source=source,
        parallelism=ManifestParallelism(**plan.parallelism.as_dict()),
        dtype=plan.dtype,
        plan_digest=plan.digest(),
        rules=[ManifestRule.of(rule) for rule in plan.rules],
        block_bytes=BLOCK_BYTES,
        block_algorithm=BLOCK_ALGORITHM,
        cuts=[ManifestCut.of(cut) for cut in plan.kinds],
        entries=list(zip(plan.cuts, plan.kind_of, strict=True)),
        objects=list(objects),
    )
