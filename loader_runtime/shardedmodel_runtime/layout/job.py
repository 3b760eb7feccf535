"""The pre-shard Job: find the finished layout, or make it.

What a layout is called follows from the source's digests and the plan, both of which cost a few
small reads. So running again, in another pod or after an edit back and forth, finds the work done
and ends in seconds; and two that run at once write the same bytes under the same names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.errors import LayoutError, LayoutNotFound, NotFound
from shardedmodel_runtime.layout.manifest import (
    Manifest,
    ManifestSource,
    ManifestSourceObject,
    read_manifest,
)
from shardedmodel_runtime.layout.presharder import Presharder
from shardedmodel_runtime.layout.saver import CheckpointSaver
from shardedmodel_runtime.memory import peak_memory_bytes
from shardedmodel_runtime.naming import MANIFEST_KEY, layout_hash
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.report import ReplicatedSummary, ShardProgress, ShardSummary
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.plan import KEEP_DTYPE, ShardingPlan
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.uri import join_uri

logger = logging.getLogger(__name__)

SUMMARY_EXAMPLES = 5
"""Names of tensors that no rule matched, in a summary that must fit 4 KiB."""
SUMMARY_NAME_LENGTH = 200
"""Characters of each of them."""
DESCRIBE_THREADS = 8
"""Objects of a found layout that are looked at side by side."""


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
    """

    source_uri: str
    storage_uri: str
    parallelism: Parallelism
    dtype: str = KEEP_DTYPE
    revision: str = ""
    rules: tuple[Rule, ...] = ()
    allow_unmatched: bool = False


class ShardJob:
    """One run for one request; ``progress`` may be asked for from other threads meanwhile.

    Args:
        request: what is to be made.
        open_source: opens a store at the source's URI, with the source's credentials.
        open_storage: the same for the storage.
    """

    def __init__(
        self,
        request: ShardRequest,
        open_source: Callable[[str], ObjectStore],
        open_storage: Callable[[str], ObjectStore],
    ) -> None:
        self._request = request
        self._open_source = open_source
        self._open_storage = open_storage
        self._started = time.monotonic()
        self._saver: CheckpointSaver | None = None
        self._pass_started = 0.0

    def progress(self) -> ShardProgress:
        """How far it is."""
        saver, now = self._saver, time.monotonic()
        total = saver.bytes if saver else 0
        done = saver.bytes_written if saver else 0
        elapsed = now - self._pass_started if saver else 0.0
        rate = done / elapsed if elapsed > 0 else 0.0
        return ShardProgress(
            objects=len(saver.objects) if saver else 0,
            bytes=total,
            bytes_done=done,
            bytes_per_second=rate,
            remaining_seconds=(total - done) / rate if rate else None,
            seconds=now - self._started,
        )

    def run(self) -> ShardSummary:
        """Find or make the layout.

        Raises:
            ConfigurationError: the parallelism or a rule does not fit the model.
            CheckpointError: the source is no usable checkpoint.
            StorageError: the source cannot be read, or the storage not written.
        """
        with (
            self._open_source(self._request.source_uri) as source,
            self._open_storage(self._request.storage_uri) as storage,
        ):
            storage.require_root()
            metadata = CheckpointMetadata.read(source)
            plan = WeightDistributor(
                self._request.parallelism,
                self._request.rules,
                dtype=self._request.dtype,
                allow_unmatched=self._request.allow_unmatched,
            ).plan(metadata)
            name = layout_hash(
                source_digests=metadata.digests(),
                parallelism=self._request.parallelism,
                dtype=self._request.dtype,
                plan_digest=plan.digest(),
            )
            with self._open_storage(join_uri(storage.uri, name)) as layout:
                manifest = find_layout(layout, name, plan)
                reused, bytes_read = manifest is not None, 0
                if manifest is None:
                    before = source.bytes_read
                    manifest = self._make(source, metadata, plan, name, layout)
                    bytes_read = source.bytes_read - before
                return self._summary(manifest, layout.uri, metadata, plan, bytes_read, reused)

    def _make(
        self,
        source: ObjectStore,
        metadata: CheckpointMetadata,
        plan: ShardingPlan,
        name: str,
        layout: ObjectStore,
    ) -> Manifest:
        self._pass_started = time.monotonic()
        saver = self._saver = CheckpointSaver(layout, plan, name)
        Presharder(source, metadata, plan, saver).run()
        described = [*metadata.described, *metadata.objects]
        return saver.commit(
            ManifestSource(
                uri=self._request.source_uri,
                revision=self._request.revision,
                model_type=plan.model_type,
                objects=[
                    ManifestSourceObject(key=item.key, bytes=item.size, digest=item.digest)
                    for item in described
                ],
            )
        )

    def _summary(
        self,
        manifest: Manifest,
        uri: str,
        metadata: CheckpointMetadata,
        plan: ShardingPlan,
        bytes_read: int,
        reused: bool,
    ) -> ShardSummary:
        names = [name[:SUMMARY_NAME_LENGTH] for name in plan.unmatched[:SUMMARY_EXAMPLES]]
        return ShardSummary(
            layout_hash=manifest.layout_hash,
            manifest_uri=join_uri(uri, MANIFEST_KEY),
            objects=len(manifest.objects),
            bytes=manifest.total_bytes,
            source_bytes=metadata.total_bytes,
            source_bytes_read=bytes_read,
            max_rank_bytes=max(manifest.rank_bytes(r) for r in range(manifest.world_size)),
            seconds=time.monotonic() - self._started,
            peak_memory_bytes=peak_memory_bytes(),
            reused=reused,
            unmatched=ReplicatedSummary(
                tensors=len(plan.unmatched), bytes=plan.unmatched_bytes, examples=names
            ),
        )


def find_layout(layout: ObjectStore, name: str, plan: ShardingPlan) -> Manifest | None:
    """Find the finished layout of this name, if there is one that can be used.

    A manifest that cannot be used (broken, or without its objects) is deleted, so that the
    layout is made anew.

    Raises:
        StorageError: the storage cannot be read.
    """
    try:
        manifest = read_manifest(layout)
        if (manifest.layout_hash, manifest.plan_digest) != (name, plan.digest()):
            raise LayoutError("its manifest is of another layout")
        _require_objects(layout, manifest)
    except LayoutNotFound:
        return None
    except LayoutError as error:
        logger.warning("%s is made anew: %s", layout.uri, error)
        layout.delete(MANIFEST_KEY)
        return None
    return manifest


def _require_objects(layout: ObjectStore, manifest: Manifest) -> None:
    def size(key: str) -> int:
        try:
            return layout.describe(key).size
        except NotFound as error:
            raise LayoutError(error.message) from error

    with ThreadPoolExecutor(DESCRIBE_THREADS, thread_name_prefix="describe") as executor:
        for item, found in zip(
            manifest.objects, executor.map(size, [o.key for o in manifest.objects]), strict=True
        ):
            if found != item.bytes:
                raise LayoutError(f"{item.key} has {found} bytes, not {item.bytes}")
