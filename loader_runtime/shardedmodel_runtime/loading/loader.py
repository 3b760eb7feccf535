"""``DistributedCheckpointLoader``: one rank's load, from the manifest to tensors."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.loading.arena import Arena, arena_maker, choose_device
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.fetch import Fetcher, Progress, runs_of
from shardedmodel_runtime.loading.views import tensor_views
from shardedmodel_runtime.memory import peak_memory_bytes
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.opening import StoreOptions, open_store


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What one load took.

    Args:
        bytes: of the rank's objects.
        bytes_read: fetched from the store for them, repeats included.
        retries: requests and blocks that were repeated.
        seconds: wall time of the load, from the first allocation to the last view.
        phase_seconds: ``seconds`` divided among ``allocate``, ``read``, ``verify`` and ``copy``.
            Reading, verifying and copying overlap in many threads; their common wall time is
            divided in proportion to the time that threads spent on each.
        peak_memory_bytes: the process's largest resident set so far.
    """

    bytes: int
    bytes_read: int
    retries: int
    seconds: float
    phase_seconds: dict[str, float]
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """What one rank holds.

    Args:
        state_dict: each tensor of the model in this rank's shape, as a view of its object's
            memory; tensors of sub-byte dtypes are their raw bytes (one-dimensional ``uint8``).
        manifest: the layout's manifest.
        rank: the rank that this is.
        report: what the load took.
    """

    state_dict: dict[str, torch.Tensor]
    manifest: Manifest
    rank: int
    report: LoadReport


class DistributedCheckpointLoader:
    """Loads one rank's objects: each once, in parallel, verified, straight into final storage.

    Args:
        config: what to load, and how.
        store: where the layout is; None: opened from ``config``, with credentials from the
            standard AWS variables.

    Raises:
        ConfigurationError: the layout's address or the device cannot be meant.
    """

    def __init__(
        self,
        config: ModelLoadConfig,
        *,
        store: ObjectStore | None = None,
    ) -> None:
        self.config = config
        self.device = choose_device(config.device, config.local_rank)
        self.progress = Progress()
        self._store = store or open_layout(config)
        self._before = (0, 0)

    @property
    def bytes_read(self) -> int:
        """Bytes fetched for this rank's objects so far, repeats included."""
        return self._store.bytes_read - self._before[0]

    @property
    def retries(self) -> int:
        """Requests and blocks that were repeated so far."""
        return self._store.retries - self._before[1] + self.progress.rereads

    def load(self, manifest: Manifest | None = None) -> LoadedShard:
        """Load the rank's objects.

        Args:
            manifest: the layout's manifest where it is known already; else it is read first.

        Raises:
            ConfigurationError: the layout was not cut for ``world_size`` ranks.
            LayoutNotFound: there is no manifest.
            ChecksumMismatch: a block is wrong in the store.
            StorageError: the store refused or failed.
            Unavailable: the store kept failing, or the deadline passed.
        """
        manifest = manifest or read_manifest(self._store)
        _check_world_size(manifest, self.config)
        self._before = (self._store.bytes_read, self._store.retries)
        self.progress.bytes = manifest.rank_bytes(self.config.rank)
        began = time.perf_counter()
        make_arena = arena_maker(self.device, max(self.config.range_bytes, manifest.block_bytes))
        items = manifest.objects_of(self.config.rank)
        arenas = [make_arena(item.bytes) for item in items]
        allocated = time.perf_counter()
        self._fetch(manifest, arenas)
        state_dict: dict[str, torch.Tensor] = {}
        for item, arena in zip(items, arenas, strict=True):
            state_dict |= tensor_views(manifest, item, arena.tensor)
        ended = time.perf_counter()
        copy = sum(arena.copy_seconds for arena in arenas)
        report = LoadReport(
            bytes=self.progress.bytes,
            bytes_read=self.bytes_read,
            retries=self.retries,
            seconds=ended - began,
            phase_seconds={"allocate": allocated - began}
            | _apportion(ended - allocated, self.progress.thread_seconds | {"copy": copy}),
            peak_memory_bytes=peak_memory_bytes(),
        )
        return LoadedShard(state_dict, manifest, self.config.rank, report)

    def _fetch(self, manifest: Manifest, arenas: list[Arena]) -> None:
        config = self.config
        deadline = config.deadline_seconds and time.monotonic() + config.deadline_seconds
        work = [
            (run, arena)
            for item, arena in zip(manifest.objects_of(config.rank), arenas, strict=True)
            for run in runs_of(item, manifest.block_bytes, config.range_bytes)
        ]
        fetcher = Fetcher(self._store, manifest.block_bytes, config.verify, self.progress)
        fetcher.fetch_all(work, config.concurrency, deadline)
        for arena in arenas:
            arena.finish()


def load(config: ModelLoadConfig) -> LoadedShard:
    """Load one rank's shard alone, without a group: for tools and for looking at a layout."""
    return DistributedCheckpointLoader(config).load()


def open_layout(config: ModelLoadConfig) -> ObjectStore:
    """Open the store at the layout's address, with credentials from the environment."""
    options = StoreOptions.from_environment(endpoint_url=config.endpoint_url, region=config.region)
    return open_store(config.layout, options)


def _check_world_size(manifest: Manifest, config: ModelLoadConfig) -> None:
    if manifest.world_size != config.world_size:
        degrees = manifest.parallelism
        raise ConfigurationError(
            f"world_size: {config.world_size} does not match the layout {config.layout}, which was "
            f"cut for {manifest.world_size} ranks (tensor {degrees.tensor}, pipeline "
            f"{degrees.pipeline}, expert {degrees.expert})"
        )


def _apportion(wall: float, thread_seconds: dict[str, float]) -> dict[str, float]:
    """Divide wall time among activities that overlapped, by the time threads spent on each."""
    total = sum(thread_seconds.values())
    return {name: wall * part / total if total else 0.0 for name, part in thread_seconds.items()}
