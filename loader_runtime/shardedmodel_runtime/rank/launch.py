"""A load under torchrun, or alone: the ranks of a group without Kubernetes.

torchrun serves a store at ``MASTER_ADDR:MASTER_PORT`` already, and ends all ranks when one fails;
so here nothing outlives a rank, and there is one incarnation.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist
from pydantic import Field
from torch.distributed.rendezvous import rendezvous

from shardedmodel_runtime.errors import ConfigurationError, GroupError, excerpt
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.loading.config import (
    MAX_WORLD_SIZE,
    ModelLoadConfig,
    Options,
    seconds_until,
)
from shardedmodel_runtime.loading.loader import (
    DistributedCheckpointLoader,
    LoadedShard,
    open_layout,
)
from shardedmodel_runtime.loading.sharing import Sharing
from shardedmodel_runtime.rank import metadata
from shardedmodel_runtime.rank.group import choose_backend, claim, name_ranks
from shardedmodel_runtime.rank.store import DistError, PrefixStore, Store
from shardedmodel_runtime.report import GroupReport, RankReport
from shardedmodel_runtime.storage.base import ObjectStore

TIMEOUT_SECONDS = 1800.0
"""For what ranks wait for of each other, the slowest load among it where loads have no deadline;
torchrun ends all ranks when one fails, so nobody waits for the dead."""
POLL_SECONDS = 0.1
"""Between two looks whether all ranks have loaded."""
_PREFIX = "shardedmodel"
_LOADED = "loaded"
"""Counts the ranks that have told their reports: one small question for each look."""


class Launch(Options):
    """Who this process is, as torchrun tells it; alone where there is no torchrun."""

    rank: int = Field(default=0, ge=0)
    """``RANK``."""

    world_size: int = Field(default=1, ge=1, le=MAX_WORLD_SIZE)
    """``WORLD_SIZE``."""

    local_rank: int = Field(default=0, ge=0)
    """``LOCAL_RANK``."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the variables that torchrun sets; all may be missing.

        Raises:
            ConfigurationError: one of them is not a number in its range.
        """
        found = os.environ if environ is None else environ
        names = {name: found.get(name.upper()) for name in cls.model_fields}
        return cls.parse({name: value for name, value in names.items() if value})


def load_group(config: ModelLoadConfig) -> tuple[LoadedShard, GroupReport]:
    """Load this rank's shard while its peers load theirs, and learn how all of them did.

    Where the group has more than one rank, it is torch's default process group from here on.

    Args:
        config: what this rank loads; ``rank`` and ``world_size`` are those of its launcher.

    Returns:
        What the rank holds; and the reports of all ranks on rank 0, elsewhere this rank's.

    Raises:
        ShardedModelError: what the loader raises.
        GroupError: the group did not form, rank 0 did not publish the manifest, or a rank had not
            loaded so long after this one as a load may take.
    """
    with open_layout(config) as layout:
        loader = DistributedCheckpointLoader(config, store=layout, sharing=_sharing(config))
        backend = choose_backend("auto", loader.device)
        store = _join(config, backend, claim(loader.device))
        # Ranks have met, so from here on the slowest to start takes nothing from a load's time.
        deadline = config.deadline_from_now()
        manifest = _obtain_manifest(layout, store, config.rank, deadline)
        shard = loader.load(manifest, deadline=deadline)
    own = _report(loader, shard)
    patience = config.deadline_seconds or TIMEOUT_SECONDS
    reports = [own] if store is None else exchange(store, own, config.world_size, patience)
    group = GroupReport(
        layout_hash=config.layout_hash,
        world_size=config.world_size,
        formed=True,
        complete=config.rank == 0,
        backend=backend,
        ranks=reports,
    )
    return shard, group


def _join(config: ModelLoadConfig, backend: str, bound: torch.device | None) -> Store | None:
    """Form torch's default group; gives its store, None for a rank that is alone."""
    if config.world_size == 1:
        return None
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    try:
        found = rendezvous("env://", config.rank, config.world_size, timeout=timeout)
        store, rank, world_size = next(found)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=timeout, device_id=bound
        )
    except ValueError as error:  # a variable is missing, or is no number
        raise ConfigurationError(
            f"WORLD_SIZE is {config.world_size}, and the group's store cannot be found: "
            f"{excerpt(str(error))}; start the ranks with torchrun, which sets MASTER_ADDR and "
            "MASTER_PORT"
        ) from error
    except DistError as error:
        raise GroupError(f"the group did not form: {excerpt(str(error))}") from error
    return PrefixStore(_PREFIX, store)


def _sharing(config: ModelLoadConfig) -> Sharing | None:
    """Say how ranks share, where they do and there are several."""
    if not config.share_common or config.world_size == 1:
        return None
    return Sharing(config.rank, config.deadline_seconds)


def _obtain_manifest(
    layout: ObjectStore, store: Store | None, rank: int, deadline: float | None
) -> Manifest:
    left = seconds_until(deadline)
    if store is not None and rank > 0:
        patience = TIMEOUT_SECONDS if left is None else left
        return metadata.await_manifest(lambda _: store, patience).manifest
    manifest = read_manifest(layout, within_seconds=left)
    if store is not None:
        metadata.broadcast(store, manifest.to_bytes())
    return manifest


def exchange(
    store: Store, own: RankReport, world_size: int, patience_seconds: float
) -> list[RankReport]:
    """Tell rank 0 how this rank did; returns when all have loaded.

    Returns:
        The reports of all ranks on rank 0, elsewhere this rank's.

    Raises:
        GroupError: ranks have not loaded after ``patience_seconds``; names them.
    """
    keys = [f"report/{rank}" for rank in range(world_size)]
    deadline = time.monotonic() + patience_seconds
    try:
        store.set(keys[own.rank], own.to_json())
        store.add(_LOADED, 1)
        while store.add(_LOADED, 0) < world_size:
            if time.monotonic() > deadline:
                absent = [rank for rank, key in enumerate(keys) if not store.check([key])]
                raise GroupError(
                    f"{len(absent)} of {world_size} ranks have not loaded {patience_seconds:.0f} s "
                    f"after rank {own.rank}: {name_ranks(absent)}; look at what they log"
                )
            time.sleep(POLL_SECONDS)
        dist.barrier()
        texts = [store.get(key) for key in keys] if own.rank == 0 else []
    except RuntimeError as error:  # torch's own: store, gloo and NCCL raise nothing narrower
        raise GroupError(f"the group fell apart: {excerpt(str(error))}") from error
    return [RankReport.model_validate_json(text) for text in texts] or [own]


def _report(loader: DistributedCheckpointLoader, shard: LoadedShard) -> RankReport:
    return RankReport(
        rank=shard.rank,
        node=socket.gethostname(),
        state="ready",
        device=str(loader.device),
        bytes_done=loader.progress.bytes_done,
        seconds=shard.report.seconds,
        loaded_at=time.time(),
        phase_seconds=shard.report.phase_seconds,
        message=loader.cache_error,
        **loader.figures(),
    )
