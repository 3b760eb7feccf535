"""``DistributedCheckpointLoader``: one rank's load, from the manifest to tensors."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import torch

from shardedmodel_runtime.errors import ConfigurationError, Unavailable
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.loading.arena import Arena, arena_maker, callers_stream, choose_device
from shardedmodel_runtime.loading.broken import broken_where_objects_are_not_whole
from shardedmodel_runtime.loading.cache import NodeCache
from shardedmodel_runtime.loading.config import ModelLoadConfig, seconds_until
from shardedmodel_runtime.loading.gathering import Gatherer
from shardedmodel_runtime.loading.hedging import AT_ONCE
from shardedmodel_runtime.loading.landings import landing_alone
from shardedmodel_runtime.loading.load_report import LoadReport, apportion
from shardedmodel_runtime.loading.ring import MAX_WINDOWS
from shardedmodel_runtime.loading.runs import Progress
from shardedmodel_runtime.loading.shard import LoadedShard, memory_of
from shardedmodel_runtime.loading.sharing import Sharing
from shardedmodel_runtime.loading.terms import Terms
from shardedmodel_runtime.loading.views import tensor_views
from shardedmodel_runtime.memory import peak_memory_bytes
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.opening import StoreOptions, open_store
from shardedmodel_runtime.storage.waiting import within

LAST_WORDS_SECONDS = 0.5
"""After the deadline, for the load's own error, which tells what is missing, to come first."""


class DistributedCheckpointLoader:
    """Loads one rank's objects: each once, in parallel, verified, straight into final storage.

    Args:
        config: what to load, and how.
        store: where the layout is; None: opened from ``config``, with credentials from the
            standard AWS variables.
        sharing: exchanges what several ranks hold, where ``config.share_common`` asks for it.

    Raises:
        ConfigurationError: the layout's address or the device cannot be meant.
    """

    def __init__(
        self,
        config: ModelLoadConfig,
        *,
        store: ObjectStore | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        if config.share_common and config.world_size > 1 and sharing is None:
            raise ConfigurationError(
                "share_common: needs the process group of ranks that begin together; "
                "use `torchrun … -m shardedmodel_runtime load`, or load_group from Python"
            )
        self.config = config
        self._sharing = sharing
        self.device = choose_device(config.device, config.local_rank)
        self.progress = Progress()
        self._store = store or open_layout(config)
        self._cache: NodeCache | None = None
        self._before: tuple[int, int] | None = None

    @property
    def bytes_read(self) -> int:
        """Bytes fetched for this rank's objects so far, repeats included."""
        return 0 if self._before is None else self._store.bytes_read - self._before[0]

    @property
    def retries(self) -> int:
        """Requests and blocks that were repeated so far."""
        before = 0 if self._before is None else self._before[1]
        return self._store.retries - before + self.progress.rereads

    def figures(self) -> dict[str, int]:
        """Tell what the load took so far, by the names in ``LoadReport`` and ``RankReport``."""
        progress = self.progress
        return {
            "bytes": progress.bytes,
            "bytes_read": self.bytes_read,
            "retries": self.retries,
            "throttled": progress.throttled,
            "hedges": progress.hedges,
            "cache_hits": progress.cache_hits,
            "cache_bytes": progress.cache_bytes,
            "concurrency": progress.concurrency,
            "peak_memory_bytes": peak_memory_bytes(),
        }

    @property
    def cache_error(self) -> str:
        """Why the load goes on without the node's cache; empty while it does not."""
        if self._cache is None or self.config.cache_peers:
            return ""
        return self._cache.error

    def load(
        self,
        manifest: Manifest | None = None,
        *,
        into: LoadedShard | None = None,
        deadline: float | None = None,
    ) -> LoadedShard:
        """Load the rank's objects.

        Args:
            manifest: the layout's manifest where it is known already; else it is read first.
            into: an earlier load of a layout that is cut alike, whose memory is used again:
                new weights come into the tensors that a model holds, and no memory is asked for.
                On a CUDA device they come after what was queued on the caller's current stream;
                other streams are not waited for. When the load fails, what those tensors hold is
                undefined until another load into them has ended well: bytes may still come.
            deadline: ``time.monotonic()`` by which it has to end, where it began with what is done
                already; None: ``config.deadline_seconds`` from now.

        Raises:
            ConfigurationError: the layout was not cut for ``world_size`` ranks, or ``into`` is
                another rank's or another device's, or holds objects of other sizes or other
                tensors.
            GroupError: a rank with which this one shares did not come to the load, or did not give
                its part.
            LayoutNotFound: there is no manifest, or neither manifest nor objects any more.
            LayoutError: an object of the manifest's is missing, or shorter than it says.
            ChecksumMismatch: a block is wrong in the store.
            StorageError: the store refused or failed.
            Unavailable: the store kept failing, the deadline passed, or reads of a load that
                failed, or has not ended, may still write into the memory of ``into``.
        """
        deadline = self.config.deadline_from_now() if deadline is None else deadline
        manifest = manifest or read_manifest(self._store, within_seconds=seconds_until(deadline))
        _check_world_size(manifest, self.config)
        self._before = (self._store.bytes_read, self._store.retries)
        self.progress = Progress()  # threads of an earlier load that failed may still count
        self.progress.bytes = manifest.rank_bytes(self.config.rank)
        began = time.perf_counter()
        items = manifest.objects_of(self.config.rank)
        if self._sharing is not None:
            self._sharing.form(manifest, deadline)
        held = {} if into is None else memory_of(into, manifest, self.config.rank, self.device)
        arenas = self._gather(manifest, held, deadline)
        for arena in arenas:
            arena.finish()
        state_dict: dict[str, torch.Tensor] = {}
        for item, arena in zip(items, arenas, strict=True):
            state_dict |= tensor_views(manifest, item, arena.tensor)
        ended = time.perf_counter()
        activities = self.progress.thread_seconds | {"copy": sum(a.copy_seconds for a in arenas)}
        phases = apportion(ended - began, activities)
        return LoadedShard(
            state_dict,
            [arena.tensor for arena in arenas],
            manifest,
            self.config.rank,
            self._report(ended - began, phases),
        )

    def _gather(
        self, manifest: Manifest, held: dict[str, torch.Tensor], deadline: float | None
    ) -> list[Arena]:
        """Bring the rank's objects, and wait no longer than the deadline for what hangs."""
        items = manifest.objects_of(self.config.rank)
        stream = callers_stream(self.device)
        with ExitStack() as claimed:
            for memory in held.values():
                claimed.enter_context(landing_alone(memory))
            landings = claimed.pop_all()  # left by the thread that reads, however late that ends

        def work() -> list[Arena]:
            with landings, stream, broken_where_objects_are_not_whole(self._store):
                self._cache = self._cache or _cache_of(self.config, deadline)
                if self._cache is not None:
                    self._cache.disk.deadline = deadline
                    self._cache.expect(items)
                return self._gatherer(manifest, held, deadline).gather(items)

        left = seconds_until(deadline)
        return within(None if left is None else left + LAST_WORDS_SECONDS, work, self._hangs)

    def _hangs(self) -> Unavailable:
        progress = self.progress
        cache = f" and the cache's, {self.config.cache}" if self.config.cache else ""
        return Unavailable(
            f"the load did not end within its deadline: {progress.bytes_done} of {progress.bytes} "
            "bytes have come, and a call that it waits for does not return; look at "
            f"{self._store.uri}{cache}"
        )

    @property
    def _concurrency(self) -> int:
        """Most reads in flight: on a device each takes a window of pinned memory."""
        limit = self.config.concurrency
        return limit if self.device.type == "cpu" else min(limit, MAX_WINDOWS)

    def _gatherer(
        self, manifest: Manifest, held: dict[str, torch.Tensor], deadline: float | None
    ) -> Gatherer:
        config = self.config
        window_bytes = max(config.range_bytes, manifest.block_bytes)
        make = arena_maker(self.device, window_bytes, self._concurrency + AT_ONCE)
        terms = Terms(
            block_bytes=manifest.block_bytes,
            range_bytes=config.range_bytes,
            verify=config.verify,
            concurrency=self._concurrency,
            progress=self.progress,
            deadline=deadline,
        )
        return Gatherer(
            self._store,
            terms,
            lambda item: make(item.bytes, held.get(item.key)),
            map_files=self._may_map and not held,
            reuses_memory=bool(held),
            cache=self._cache,
            sharing=self._sharing,
        )

    @property
    def _may_map(self) -> bool:
        """Whether tensors may be a file's pages: parts of others would be written into them."""
        wanted = self.config.map_files and self._sharing is None
        return wanted and self.device.type == "cpu"

    def _report(self, seconds: float, phases: dict[str, float]) -> LoadReport:
        return LoadReport(
            **self.figures(), cache_error=self.cache_error, seconds=seconds, phase_seconds=phases
        )


def _cache_of(config: ModelLoadConfig, deadline: float | None) -> NodeCache | None:
    if not config.cache:
        return None
    return NodeCache(Path(config.cache), config.cache_bytes, config.cache_peers, deadline)


def load(config: ModelLoadConfig, *, into: LoadedShard | None = None) -> LoadedShard:
    """Load one rank's shard alone, without a group: for tools and for looking at a layout.

    Args:
        config: what to load, and how; credentials come from the standard AWS variables.
        into: an earlier load, whose memory is used again; see ``DistributedCheckpointLoader.load``.

    Raises:
        ConfigurationError: the layout was not cut for ``world_size`` ranks, its address or the
            device cannot be meant, ``share_common`` asks for a group, or ``into`` does not fit.
        LayoutNotFound: there is no manifest, or neither manifest nor objects any more.
        LayoutError: an object of the manifest's is missing, or shorter than it says.
        ChecksumMismatch: a block is wrong in the store.
        StorageError: the store refused or failed.
        Unavailable: the store kept failing, or the deadline passed.
    """
    with open_layout(config) as store:
        return DistributedCheckpointLoader(config, store=store).load(into=into)


def open_layout(config: ModelLoadConfig) -> ObjectStore:
    """Open the store at the layout's address, with credentials from the environment.

    Raises:
        ConfigurationError: the address or the endpoint cannot be meant.
        AccessDenied: one of the variables of key and secret is set without the other.
    """
    options = StoreOptions.from_environment(endpoint_url=config.endpoint_url, region=config.region)
    return open_store(config.layout, options)


def _check_world_size(manifest: Manifest, config: ModelLoadConfig) -> None:
    if manifest.world_size != config.world_size:
        degrees = manifest.parallelism
        raise ConfigurationError(
            f"world_size: {config.world_size} does not match the layout {config.layout}, which was "
            f"cut for {manifest.world_size} ranks (tensor {degrees.tensor}, pipeline "
            f"{degrees.pipeline}, expert {degrees.expert}); start one process for each of its "
            f"ranks (torchrun --nproc-per-node {manifest.world_size} …)"
        )
