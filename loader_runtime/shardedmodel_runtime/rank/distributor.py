"""``ModelDistributor``: everything that one rank does, in order.

    join the store → take the manifest → load and verify → form the group → ready
                                                             ↑                │
                                                             └ group changed ─┘

Weights are loaded once. When a rank is replaced, or rank 0 and its store return, the others form
the group anew at the next incarnation, with the weights that they hold.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from shardedmodel_runtime.errors import GroupError
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.loading.config import ModelLoadConfig, seconds_until
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader, open_layout
from shardedmodel_runtime.loading.shard import LoadedShard
from shardedmodel_runtime.rank import group, metadata
from shardedmodel_runtime.rank.entrypoint import Entrypoint, RankContext
from shardedmodel_runtime.rank.incarnations import Member
from shardedmodel_runtime.rank.membership import Membership
from shardedmodel_runtime.rank.options import JOIN_TIMEOUT_SECONDS, Backend, Place
from shardedmodel_runtime.rank.roster import make_beat
from shardedmodel_runtime.rank.status import RankStatus
from shardedmodel_runtime.rank.store import (
    LOOPBACK,
    DistError,
    Store,
    connect,
    host,
    reach,
)
from shardedmodel_runtime.report import GroupReport, RankReport

FORM_ATTEMPTS = 5
"""Failures in a row to connect ranks that had all arrived, before the rank gives up: peers that
die at that moment explain one or two, a network that keeps peers apart explains all."""


class ModelDistributor:
    """Brings one rank of a group from nothing to ready, and keeps it so.

    Example:
        >>> with ModelDistributor(config) as distributor:     # doctest: +SKIP
        ...     shard = distributor.load()
        ...     distributor.form()      # from here on torch.distributed is ready to use

    Args:
        config: what this rank loads.
        place: pod, node, and where the group's store is; None: from the environment.
        backend: of the process group.
        join_timeout_seconds: how long to wait for peers before giving up.
        status: where progress is written; None: a new one.

    Raises:
        ConfigurationError: the layout's address or the device cannot be meant.
    """

    def __init__(
        self,
        config: ModelLoadConfig,
        *,
        place: Place | None = None,
        backend: Backend = "auto",
        join_timeout_seconds: float = JOIN_TIMEOUT_SECONDS,
        status: RankStatus | None = None,
    ) -> None:
        self.config = config
        self._place = place or Place.from_environment()
        self._timeout = join_timeout_seconds
        self._status = status or RankStatus(config.rank, self._place.pod, self._place.node)
        self._layout = open_layout(config)
        self._loader = DistributedCheckpointLoader(config, store=self._layout)
        self._backend = group.choose_backend(backend, self._loader.device)
        self._address = (
            LOOPBACK if config.rank == 0 else self._place.master_addr,
            self._place.master_port,
        )
        self._member = Member(config.rank, config.world_size)
        self._membership = Membership(
            self._member, self._address, self.report, join_timeout_seconds
        )
        self._stopping = threading.Event()
        self._server: Store | None = None
        self._formed_at: int | None = None
        self._join_seconds: float | None = None
        self._status.update(device=str(self._loader.device))

    def __enter__(self) -> Self:
        """Serve the store on rank 0, and begin to join the group.

        Raises:
            GroupError: the store's port is in use.
        """
        if self.config.rank == 0:
            self._server = host(self._place.master_port)
        self._membership.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._membership.stop()
        group.leave()
        self._server = None  # its port is free for the next group of this process
        self._layout.close()

    def load(self) -> LoadedShard:
        """Load this rank's shard; peers may still be missing.

        Raises:
            ConfigurationError: it is not within its ``with`` block.
            GroupError: rank 0 was not there, or did not publish the manifest, in time.
            LayoutError: there is no layout, or its bytes are wrong.
            StorageError: the store refused or failed.
        """
        self._status.update(state="joining")
        with self._status.phase("join"):
            self._membership.wait_joined()
        with self._status.phase("metadata"):
            deadline = self.config.deadline_from_now()
            manifest = self._obtain_manifest(seconds_until(deadline))
        self._status.update(state="loading")
        shard = self._loader.load(manifest, deadline=deadline)
        self._status.add_phases(shard.report.phase_seconds)
        self._status.update(state="loaded", seconds=shard.report.seconds, loaded_at=time.time())
        return shard

    def form(self) -> int:
        """Form the group with all peers, as soon as each has its weights.

        Returns:
            The incarnation, whose group is torch's default one now.

        Raises:
            GroupError: peers are missing after the timeout, or could not be connected, or rank 0
                has come back with another manifest than this rank's weights are of.
        """
        began = time.perf_counter()
        failures = 0
        while self._formed_at is None or self._formed_at != self._membership.incarnation:
            incarnation = self._membership.wait_joined()
            try:
                self._form_at(incarnation)
            except group.GroupChanged:
                continue
            except group.FormingFailed as error:
                if self._membership.incarnation != incarnation:
                    continue  # a peer that had arrived was replaced
                failures += 1
                if failures == FORM_ATTEMPTS:
                    raise GroupError(error.message) from error
                self._membership.leave(incarnation)
                continue
            self._formed_at = incarnation
        self._join_seconds = time.perf_counter() - began
        self._status.add_phases({"barrier": self._join_seconds})
        return self._formed_at

    def run(
        self, entrypoint: Entrypoint | None = None, on_change: Callable[[], None] | None = None
    ) -> None:
        """Load, form the group, and hold it for ever; ends by an error alone.

        Args:
            entrypoint: called once the group is formed. When it returns, the rank goes on holding
                its weights.
            on_change: called in another thread when the group changes after ``entrypoint`` was
                called, which then cannot go on: it should end the process.

        Raises:
            ShardedModelError: what ``load`` and ``form`` raise.
        """
        shard = self.load()
        while True:
            incarnation = self.form()
            if entrypoint is not None:
                watch = threading.Thread(
                    target=self._watch, args=(incarnation, on_change), daemon=True
                )
                watch.start()
                entrypoint(self._context(shard))
            self._membership.wait_over(incarnation)
            group.leave()

    def report(self) -> RankReport:
        """Say how this rank stands."""
        report = self._status.report()
        ready = report.state == "loaded" and self.is_formed
        return report.model_copy(
            update={
                "state": "ready" if ready else report.state,
                "message": report.message or self._membership.trouble or self._loader.cache_error,
                "bytes_done": self._loader.progress.bytes_done,
                **self._loader.figures(),
            }
        )

    def group_report(self) -> GroupReport:
        """Say how the group stands: all of it on rank 0, elsewhere this rank alone."""
        own = self.report()
        roster = self._membership.roster
        others = roster.reports() if roster is not None else []
        return GroupReport(
            layout_hash=self.config.layout_hash,
            world_size=self.config.world_size,
            incarnation=self._member.incarnation,
            formed=self.is_formed,
            complete=roster is not None,
            backend=self._backend,
            join_seconds=self._join_seconds,
            ranks=[own, *others[1:]],
        )

    @property
    def is_formed(self) -> bool:
        """Whether the group is formed and whole."""
        formed_at = self._formed_at
        return (
            formed_at is not None
            and formed_at == self._membership.incarnation
            and self._membership.is_whole
        )

    def _obtain_manifest(self, within_seconds: float | None) -> Manifest:
        if self._server is None:
            limits = [self._timeout] if within_seconds is None else [self._timeout, within_seconds]
            agreed = metadata.await_manifest(self._connect, min(limits))
            self._member.manifest = agreed.sha256
            return agreed.manifest
        manifest = read_manifest(self._layout, within_seconds=within_seconds)
        self._member.manifest = metadata.broadcast(self._server, manifest.to_bytes())
        return manifest

    def _form_at(self, incarnation: int) -> None:
        with (
            reach(self._address, self._timeout, self._stopping) as connection,
            self._membership.ending_when_over(incarnation, connection.end),
        ):
            store = connection.store
            self._await_peers(store, incarnation)
            group.form(self._member, store, incarnation, self._backend, self._loader.device)

    def _await_peers(self, store: Store, incarnation: int) -> None:
        group.await_all(
            self._member,
            store,
            incarnation,
            make_beat(self._member, self.report).to_json(),
            lambda: self._membership.incarnation != incarnation,
            self._timeout,
        )
        try:
            # Before any rank is ready, rank 0 knows how all have loaded.
            self._membership.hear_arrivals(store, incarnation)
        except DistError as error:
            raise group.GroupChanged from error

    def _connect(self, within_seconds: float) -> Store:
        return connect(self._address, within_seconds, self._stopping)

    def _context(self, shard: LoadedShard) -> RankContext:
        return RankContext(
            state_dict=shard.state_dict,
            manifest=shard.manifest,
            coordinate=shard.manifest.degrees.coordinate(shard.rank),
            world_size=self.config.world_size,
            device=self._loader.device,
        )

    def _watch(self, incarnation: int, on_change: Callable[[], None] | None) -> None:
        self._membership.wait_over(incarnation)
        if on_change is not None and not self._stopping.is_set():
            on_change()
