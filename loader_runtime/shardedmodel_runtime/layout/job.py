"""The pre-shard Job: find the finished layout, or make it.

What a layout is called follows from the source's digests and the plan, both of which cost a few
small reads. So running again, in another pod or after an edit back and forth, finds the work done
and ends in seconds; and two that run at once write the same bytes under the same names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.errors import ConfigurationError, StorageError
from shardedmodel_runtime.layout.companions import copy_companions
from shardedmodel_runtime.layout.finding import find_layout
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.manifest_content import (
    ManifestFile,
    ManifestSource,
    ManifestSourceObject,
)
from shardedmodel_runtime.layout.objects import PlannedObject
from shardedmodel_runtime.layout.presharder import Presharder
from shardedmodel_runtime.layout.saver import CheckpointSaver
from shardedmodel_runtime.layout.scheduling import objects_of_worker
from shardedmodel_runtime.layout.summary import summary_of
from shardedmodel_runtime.layout.uploads import asked_to_end
from shardedmodel_runtime.layout.withdrawal import withdrawn_if_broken
from shardedmodel_runtime.naming import layout_hash
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.report import ShardProgress, ShardSummary
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.plan import KEEP_DTYPE, ShardingPlan
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.storage.base import ObjectStore, ReadableStore
from shardedmodel_runtime.storage.uri import join_uri


@dataclass(frozen=True, slots=True)
class ShardRequest:
    """What is to be made.

    Args:
        source_uri: the checkpoint's folder, for the manifest.
        storage_uri: where layouts go, each in a folder named by its hash.
        parallelism: the degrees.
        dtype: ``keep``, or what floating-point tensors are cast to.
        revision: the user's name for this state of the source, for the manifest.
        rules: come before the built-in ones.
        allow_unmatched: also where no rule matches more than half of the checkpoint.
        workers: how many processes share the work, each started with the same request.
        worker: which of them this is, from 0.

    Raises:
        ConfigurationError: a worker that is none of them.
    """

    source_uri: str
    storage_uri: str
    parallelism: Parallelism
    dtype: str = KEEP_DTYPE
    revision: str = ""
    rules: tuple[Rule, ...] = ()
    allow_unmatched: bool = False
    workers: int = 1
    worker: int = 0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigurationError(f"--workers: {self.workers} is not 1 or more")
        if not 0 <= self.worker < self.workers:
            raise ConfigurationError(
                f"--worker-index: {self.worker} is not below --workers {self.workers}; "
                "workers are counted from 0"
            )


class ShardJob:
    """One run for one request; ``progress`` may be asked for from other threads meanwhile.

    Args:
        request: what is to be made.
        open_source: opens a store at the source's URI, with the source's credentials.
        open_storage: the same for the storage.
        read_metadata: tells what there is in that source.
        settle: sees that all that was read of the source is sound, before a layout is made of it.
            Until then no object counts as finished, so whoever resumes makes all of them again;
            and the source is read in order. None: the source is taken as it is read.
    """

    def __init__(
        self,
        request: ShardRequest,
        open_source: Callable[[str], ReadableStore],
        open_storage: Callable[[str], ObjectStore],
        read_metadata: Callable[[ReadableStore], CheckpointMetadata] = CheckpointMetadata.read,
        settle: Callable[[], None] | None = None,
    ) -> None:
        self._request = request
        self._open_source = open_source
        self._open_storage = open_storage
        self._read_metadata = read_metadata
        self._settle = settle
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._saver: CheckpointSaver | None = None
        self._share: list[PlannedObject] = []
        self._share_bytes = 0
        self._bytes_found = 0
        self._companion_bytes = 0
        self._pass_started = 0.0

    @property
    def writing(self) -> bool:
        """Whether objects are being written, so that there is something to clean up."""
        return self._saver is not None

    def stop(self) -> None:
        """Ask for the end: while objects are written, ``run`` drops them and raises ``Terminated``.

        It does so between requests, never within one. Safe to call in a signal's handler.
        """
        self._stop.set()

    def abandon(self, seconds: float) -> None:
        """Drop what is being written without waiting for requests: a process must end after it.

        Args:
            seconds: how long the store may take for it.
        """
        if self._saver is not None:
            self._saver.abandon(seconds)

    def progress(self) -> ShardProgress:
        """How far it is with its share."""
        saver, now = self._saver, time.monotonic()
        written = saver.bytes_written if saver else 0
        elapsed = now - self._pass_started if saver else 0.0
        rate = written / elapsed if elapsed > 0 else 0.0
        done = self._bytes_found + written
        return ShardProgress(
            layout_hash=saver.layout_hash if saver else "",
            objects=len(self._share),
            bytes=self._share_bytes,
            bytes_done=done,
            bytes_per_second=rate,
            remaining_seconds=(self._share_bytes - done) / rate if rate else None,
            seconds=now - self._started,
        )

    def run(self) -> ShardSummary:
        """Find or make the layout.

        Returns:
            What was made or found; ``complete`` is false while other workers have not finished.

        Raises:
            ConfigurationError: the parallelism or a rule does not fit the model.
            CheckpointError: the source is no usable checkpoint.
            StorageError: the source cannot be read, or the storage not written.
            SourceChanged: the source is no longer what the plan was made from.
            Terminated: ``stop`` was called while objects were written.
        """
        request = self._request
        with self._open_source(request.source_uri) as source:
            with self._open_storage(request.storage_uri) as storage:
                storage.require_root()
                metadata = self._read_metadata(source)
                plan = WeightDistributor(
                    request.parallelism,
                    request.rules,
                    dtype=request.dtype,
                    allow_unmatched=request.allow_unmatched,
                ).plan(metadata)
                name = layout_hash(
                    source_digests=metadata.digests(),
                    parallelism=request.parallelism,
                    dtype=request.dtype,
                    plan_digest=plan.digest(),
                )
                uri = join_uri(storage.uri, name)
            with self._open_storage(uri) as layout:
                saver = CheckpointSaver(
                    layout, plan, name, stop=self._stop, leave_records=self._settle is None
                )
                found = find_layout(layout, name, plan)
                before = source.bytes_read
                with withdrawn_if_broken(saver):
                    manifest = found or self._make(source, metadata, plan, saver)
                if found is not None:
                    saver.drop_records_left()
                if manifest is not None:
                    layout.drop_unfinished()
                return summary_of(
                    metadata,
                    plan,
                    saver,
                    manifest,
                    worker=request.worker,
                    seconds=time.monotonic() - self._started,
                    source_bytes_read=source.bytes_read - before - self._companion_bytes,
                    reused=found is not None,
                )

    def _make(
        self,
        source: ReadableStore,
        metadata: CheckpointMetadata,
        plan: ShardingPlan,
        saver: CheckpointSaver,
    ) -> Manifest | None:
        """Write this worker's share, and commit once the shares of all are written.

        Returns:
            The manifest; None while other workers have not finished.
        """
        saver.find_finished()
        self._begin(saver)
        try:
            in_order = self._settle is not None
            presharder = Presharder(source, metadata, plan, saver, in_order=in_order)
            presharder.run(self._unfinished(saver))
            if self._settle is not None:
                self._settle()
            if self._request.workers > 1:
                saver.find_finished()
            if saver.missing():  # or the records are gone, because another has committed
                return find_layout(saver.store, saver.layout_hash, plan)
            files = self._copy_companions(source, saver.store)
            return saver.commit(self._manifest_source(metadata, plan, files))
        except StorageError as error:
            if self._stop.is_set():  # what was dropped meanwhile cannot be written
                raise asked_to_end() from error
            # Who finishes a layout drops the unfinished uploads of others who write the same.
            manifest = find_layout(saver.store, saver.layout_hash, plan)
            if manifest is None:
                raise
            return manifest

    def _begin(self, saver: CheckpointSaver) -> None:
        request = self._request
        self._share = objects_of_worker(saver.objects, saver.order, request.worker, request.workers)
        self._share_bytes = sum(planned.size for planned in self._share)
        left = sum(planned.size for planned in self._unfinished(saver))
        self._bytes_found = self._share_bytes - left
        self._pass_started = time.monotonic()
        self._saver = saver

    def _unfinished(self, saver: CheckpointSaver) -> list[PlannedObject]:
        missing = {planned.key for planned in saver.missing()}
        return [planned for planned in self._share if planned.key in missing]

    def _copy_companions(self, source: ReadableStore, layout: ObjectStore) -> list[ManifestFile]:
        before = source.bytes_read
        files = copy_companions(source, layout)
        self._companion_bytes = source.bytes_read - before
        return files

    def _manifest_source(
        self, metadata: CheckpointMetadata, plan: ShardingPlan, files: list[ManifestFile]
    ) -> ManifestSource:
        return ManifestSource(
            uri=self._request.source_uri,
            revision=self._request.revision,
            model_type=plan.model_type,
            objects=[
                ManifestSourceObject(key=item.key, bytes=item.size, digest=item.digest)
                for item in (*metadata.described, *metadata.objects)
            ],
            files=files,
        )
