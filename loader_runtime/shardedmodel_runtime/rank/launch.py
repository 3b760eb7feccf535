"""A load under torchrun, or alone: the ranks of a group without Kubernetes.

torchrun serves a store at ``MASTER_ADDR:MASTER_PORT`` already, and ends all ranks when one fails;
so here nothing outlives a rank, and there is one incarnation. Other launchers set the same
variables and serve nothing: rank 0 does.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Literal, Self

import torch
import torch.distributed as dist
from pydantic import Field
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

from shardedmodel_runtime.errors import ConfigurationError, GroupError, excerpt
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.loading.config import (
    ModelLoadConfig,
    Options,
    seconds_until,
)
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader, open_layout
from shardedmodel_runtime.loading.shard import LoadedShard
from shardedmodel_runtime.loading.sharing import Sharing
from shardedmodel_runtime.parallelism import MAX_GROUP_RANKS
from shardedmodel_runtime.rank import metadata
from shardedmodel_runtime.rank.group import choose_backend, claim, name_ranks
from shardedmodel_runtime.rank.options import LAUNCH_TIMEOUT_SECONDS
from shardedmodel_runtime.rank.store import DistError, PrefixStore, Store, TCPStore
from shardedmodel_runtime.report import GroupReport, RankReport
from shardedmodel_runtime.storage.base import ObjectStore

TIMEOUT_SECONDS = 1800.0
"""For what ranks wait for of each other, the slowest load among it where loads have no deadline;
torchrun ends all ranks when one fails, so nobody waits for the dead."""
POLL_SECONDS = 0.1
"""Between two looks whether all ranks are as far."""
_LAUNCHER_SERVES = "TORCHELASTIC_USE_AGENT_STORE"
"""Set by torchrun: ranks find the launcher's own store, under a name for each attempt."""
_PREFIX = "shardedmodel"
_loads = count()
"""Numbers this process's loads as all its peers number theirs: each has keys of its own."""

Step = Literal["joined", "loaded"]
"""What ranks wait for of each other."""


class Launch(Options):
    """Who this process is, as torchrun tells it; alone where there is no torchrun."""

    rank: int = Field(default=0, ge=0)
    """``RANK``."""

    world_size: int = Field(default=1, ge=1, le=MAX_GROUP_RANKS)
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


@dataclass
class UnderWay:
    """A load that has not ended, for who shows how far it is."""

    layout: ObjectStore
    loader: DistributedCheckpointLoader
    waits_for_ranks: bool = False
    """Whether this rank has nothing to do until the others have come as far."""


Watching = Callable[[UnderWay], AbstractContextManager[object]]
"""Entered before a load and left after it."""


def load_group(
    config: ModelLoadConfig,
    *,
    join_timeout_seconds: float = LAUNCH_TIMEOUT_SECONDS,
    watching: Watching = nullcontext,
) -> tuple[LoadedShard, GroupReport]:
    """Load this rank's shard while its peers load theirs, and learn how all of them did.

    Where the group has more than one rank, it is torch's default process group: the one that there
    is already, or else one that is formed here and stays. All ranks load together, each time.

    Args:
        config: what this rank loads; ``rank`` and ``world_size`` are those of its launcher.
        join_timeout_seconds: how long to wait for peers before giving up.
        watching: looks on.

    Returns:
        What the rank holds; and the reports of all ranks on rank 0, elsewhere this rank's.

    Raises:
        ShardedModelError: what the loader raises.
        GroupError: ranks did not meet in time, rank 0 did not publish the manifest, or a rank had
            not loaded so long after this one as a load may take.
    """
    # Taken before anything that may fail on this rank alone.
    number = next(_loads) if config.world_size > 1 else 0
    with _sharing(config, number) as sharing, open_layout(config) as layout:
        loader = DistributedCheckpointLoader(config, store=layout, sharing=sharing)
        backend = choose_backend("auto", loader.device)
        under_way = UnderWay(layout, loader, waits_for_ranks=config.world_size > 1)
        with watching(under_way):
            store = _join(config, number, backend, claim(loader.device), join_timeout_seconds)
            under_way.waits_for_ranks = False
            # Ranks have met, so from here on the slowest to start takes nothing from a load's time.
            deadline = config.deadline_from_now()
            manifest = _obtain_manifest(layout, store, config.rank, deadline)
            shard = loader.load(manifest, deadline=deadline)
            under_way.waits_for_ranks = store is not None
            own = _report(loader, shard)
            patience = config.deadline_seconds or TIMEOUT_SECONDS
            reports = [own] if store is None else exchange(store, own, config.world_size, patience)
    group = GroupReport(
        layout_hash=config.layout_hash,
        world_size=config.world_size,
        formed=True,
        complete=config.rank == 0,
        backend=backend if store is None else dist.get_backend(),
        ranks=reports,
    )
    return shard, group


def _join(
    config: ModelLoadConfig, number: int, backend: str, bound: torch.device | None, seconds: float
) -> Store | None:
    """Meet the other ranks in torch's default group; gives the store of the load of this number.

    The group is formed where there is none yet. None for a rank that is alone.
    """
    if config.world_size == 1:
        return None
    try:
        store = _group_store(config, seconds)
        own = PrefixStore(f"{_PREFIX}/{number}", store)
        await_all(own, config.rank, config.world_size, "joined", seconds)
        if not dist.is_initialized():
            dist.init_process_group(
                backend,
                store=store,
                rank=config.rank,
                world_size=config.world_size,
                timeout=timedelta(seconds=TIMEOUT_SECONDS),
                device_id=bound,
            )
    except DistError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise GroupError(
            f"the group did not form at {excerpt(address)}, where MASTER_ADDR and MASTER_PORT "
            f"point: {excerpt(str(error))}"
        ) from error
    return own


def _group_store(config: ModelLoadConfig, seconds: float) -> Store:
    """Give the store of the default group that there is, or of the one that is to be formed."""
    if dist.is_initialized():
        if (dist.get_rank(), dist.get_world_size()) != (config.rank, config.world_size):
            raise ConfigurationError(
                f"rank: {config.rank} of {config.world_size} is to be loaded, and this process is "
                f"rank {dist.get_rank()} of {dist.get_world_size()} of torch's default group; "
                "load the rank that it is"
            )
        known: Store = distributed_c10d._get_default_store()
        return known
    patience = timedelta(seconds=seconds)
    try:
        if os.environ.get(_LAUNCHER_SERVES) == "True":
            store: Store = next(rendezvous("env://", timeout=patience))[0]
            return store
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:  # a variable is missing, or is no number
        raise ConfigurationError(
            f"WORLD_SIZE is {config.world_size}, and the group's store cannot be found: "
            f"{excerpt(str(error))}; start the ranks with torchrun, which sets MASTER_ADDR and "
            "MASTER_PORT"
        ) from error
    # torch's own rendezvous would wait for all ranks here, and name none of those that do not come.
    serves = config.rank == 0
    return TCPStore(host, port, None, serves, patience, wait_for_workers=False, multi_tenant=True)


@contextmanager
def _sharing(config: ModelLoadConfig, number: int) -> Iterator[Sharing | None]:
    """Say how ranks share, where they do and there are several; it ends when all have loaded."""
    if not config.share_common or config.world_size == 1:
        yield None
        return
    sharing = Sharing(config.rank, config.deadline_seconds, number)
    try:
        yield sharing
    finally:
        sharing.end()


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
    try:
        store.set(keys[own.rank], own.to_json())
        await_all(store, own.rank, world_size, "loaded", patience_seconds)
        dist.barrier()
        texts = [store.get(key) for key in keys] if own.rank == 0 else []
    except RuntimeError as error:  # torch's own: store, gloo and NCCL raise nothing narrower
        raise GroupError(f"the group fell apart: {excerpt(str(error))}") from error
    return [RankReport.model_validate_json(text) for text in texts] or [own]


def await_all(
    store: Store, own_rank: int, world_size: int, step: Step, patience_seconds: float
) -> None:
    """Say that this rank has taken a step, and wait until all have.

    Raises:
        GroupError: ranks have not after ``patience_seconds``; names them.
        DistError: the store failed.
    """
    store.set(f"{step}/{own_rank}", "")
    store.add(step, 1)  # counted, so that each look is one small question
    deadline = time.monotonic() + patience_seconds
    while store.add(step, 0) < world_size:
        if time.monotonic() > deadline:
            absent = [rank for rank in range(world_size) if not store.check([f"{step}/{rank}"])]
            raise GroupError(
                f"{len(absent)} of {world_size} ranks have not {step} {patience_seconds:.0f} s "
                f"after rank {own_rank}: {name_ranks(absent)}; look at what they log"
            )
        time.sleep(POLL_SECONDS)


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
