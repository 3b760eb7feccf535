"""Where a rank's objects come from: the node's cache, a peer that fetches one, or the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from shardedmodel_runtime.errors import ChecksumMismatch, StorageError
from shardedmodel_runtime.layout.manifest import LayoutObject
from shardedmodel_runtime.loading.arena import Arena
from shardedmodel_runtime.loading.cache import CachingArena, NodeCache
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.fetch import Fetcher
from shardedmodel_runtime.loading.runs import Progress, runs_of
from shardedmodel_runtime.loading.window import Window
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.uri import parse_uri

PEER_SECONDS = 120.0
"""How long to wait for a peer of the node that fetches the same object; after that it is either
dead slow or hangs, and the store is asked."""

Wanted = tuple[LayoutObject, Arena]


class Gatherer:
    """Fills arenas with their objects.

    Args:
        store: where the layout is.
        cache: of the node; None: there is none.
        config: how to read.
        block_bytes: of the layout.
        concurrency: most reads in flight.
        progress: where to count.
        deadline: ``time.monotonic()`` after which the load has failed; None: never.
    """

    def __init__(
        self,
        store: ObjectStore,
        cache: NodeCache | None,
        config: ModelLoadConfig,
        block_bytes: int,
        concurrency: int,
        progress: Progress,
        deadline: float | None,
    ) -> None:
        self._store = store
        self._cache = cache
        self._config = config
        self._block_bytes = block_bytes
        self._concurrency = concurrency
        self._window = Window(concurrency)
        self._progress = progress
        self._deadline = deadline

    def gather(self, wanted: Sequence[Wanted]) -> None:
        """Fill every arena.

        Raises:
            ChecksumMismatch: a block is wrong in the store.
            StorageError: the store refused or failed.
            Unavailable: the store kept failing, or the deadline passed.
        """
        if self._cache is None:
            self._read(self._store, wanted, self._window)
            return
        missing = [pair for pair in wanted if not self._from_cache(self._cache, pair)]
        for pair in self._fetch_unlocked(self._cache, missing):
            self._await_peer(self._cache, pair)

    def _fetch_unlocked(self, cache: NodeCache, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Fetch and cache what no peer is fetching; gives back what one is."""
        theirs: list[Wanted] = []
        with ExitStack() as locks:
            mine: list[Wanted] = []
            for pair in wanted:
                got = locks.enter_context(cache.lock(pair[0], wait_until=0.0))
                if cache.error or (got and not self._from_cache(cache, pair)):
                    mine.append(pair)
                elif not got:
                    theirs.append(pair)
            self._fetch(cache, mine)
        return theirs

    def _await_peer(self, cache: NodeCache, pair: Wanted) -> None:
        until = time.monotonic() + PEER_SECONDS
        if self._deadline is not None:
            until = min(until, self._deadline)
        with cache.lock(pair[0], until) as got:
            if self._from_cache(cache, pair):
                return
            if got:
                self._fetch(cache, [pair])
            else:
                self._read(self._store, [pair], self._window)

    def _fetch(self, cache: NodeCache, wanted: Sequence[Wanted]) -> None:
        """Read from the store, and write to the cache what it takes."""
        with ExitStack() as stack:
            writers = [stack.enter_context(cache.writer(item)) for item, _ in wanted]
            arenas: list[Wanted] = [
                (item, arena if writer is None else CachingArena(arena, writer))
                for (item, arena), writer in zip(wanted, writers, strict=True)
            ]
            self._read(self._store, arenas, self._window)
            for writer in writers:
                if writer is not None:
                    writer.commit()

    def _from_cache(self, cache: NodeCache, pair: Wanted) -> bool:
        """Read one object from the cache; a bad entry is dropped."""
        item, arena = pair
        if not cache.holds(item):
            return False
        entry = item.model_copy(update={"key": item.sha256})
        done = self._progress.bytes_done
        try:
            with LocalStore(parse_uri(f"file://{cache.folder}")) as store:
                self._read(store, [(entry, arena)], Window(self._concurrency))
        except (ChecksumMismatch, StorageError):
            if self._deadline is not None and time.monotonic() >= self._deadline:
                raise
            cache.drop(item)
            self._progress.add(bytes_done=done - self._progress.bytes_done)
            return False
        self._progress.add(cache_hits=1, cache_bytes=item.bytes)
        return True

    def _read(self, store: ObjectStore, wanted: Sequence[Wanted], window: Window) -> None:
        fetcher = Fetcher(
            store,
            self._block_bytes,
            self._config.verify,
            self._progress,
            window,
            hedged=not isinstance(store, LocalStore),  # a second read asks the same disk
        )
        work = [
            (run, arena)
            for item, arena in wanted
            for run in runs_of(item, self._block_bytes, self._config.range_bytes)
        ]
        fetcher.fetch_all(work, self._deadline)
