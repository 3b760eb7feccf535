"""Where a rank's objects come from: the node's cache, a peer that fetches one, or the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import zip_longest

from shardedmodel_runtime.errors import ChecksumMismatch, StorageError
from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.loading.arena import Arena, MappedArena
from shardedmodel_runtime.loading.cache import NodeCache
from shardedmodel_runtime.loading.cache_writer import CacheWriter, CachingArena, nobody_waits
from shardedmodel_runtime.loading.fetch import Fetcher
from shardedmodel_runtime.loading.runs import Run, runs_of
from shardedmodel_runtime.loading.sharing import Sharing
from shardedmodel_runtime.loading.terms import Terms, is_over
from shardedmodel_runtime.loading.window import Window
from shardedmodel_runtime.storage.base import ObjectStore, RangeStore
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.mapping import MappedStore, can_map
from shardedmodel_runtime.storage.uri import StoreUri

ArenaMaker = Callable[[LayoutObject], Arena]
"""Makes an arena for an object of the layout, under its name there."""

PEER_SECONDS = 120.0
"""How long to wait for a next object of peers of the node that fetch the same ones. After that they
are either dead slow or hang, and the store is asked for all that is left."""


class Gatherer:
    """Brings objects into arenas.

    Args:
        store: where the layout is.
        terms: of the load.
        make_arena: makes an arena for an object.
        map_files: whether files of the node's own may be mapped instead.
        reuses_memory: whether arenas are in memory of an earlier load: then nothing else may be
            read into it while a read hangs.
        cache: of the node; None: there is none.
        sharing: exchanges what several ranks hold; None: each reads all of it.
    """

    def __init__(
        self,
        store: ObjectStore,
        terms: Terms,
        make_arena: ArenaMaker,
        *,
        map_files: bool,
        reuses_memory: bool = False,
        cache: NodeCache | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self._store = store
        self._terms = terms
        self._make_arena = make_arena
        self._map_files = map_files
        self._reuses_memory = reuses_memory
        self._cache = cache
        self._sharing = sharing
        self._window = Window(terms.concurrency)
        self._progress = terms.progress
        self._deadline = terms.deadline
        self._arenas: dict[str, Arena] = {}

    def gather(self, items: Sequence[LayoutObject]) -> list[Arena]:
        """Bring every object.

        Args:
            items: the rank's objects; ranks that share give theirs in the same order.

        Returns:
            The arena of each, in their order. Its copies to a device may still run: ``finish``
            waits for them.

        Raises:
            GroupError: another rank did not give its part of a shared object.
            ChecksumMismatch: a block is wrong in the store.
            StorageError: the store refused or failed.
            Unavailable: the store kept failing, or the deadline passed.
        """
        if self._sharing is not None:
            self._share(self._sharing, items)
        elif self._cache is None or (self._cache.is_of_peers and self._maps(self._store)):
            self._ask_store(items)
        else:
            self._share_cache(self._cache, items)
        return [self._arenas[item.key] for item in items]

    def _share_cache(self, cache: NodeCache, items: Sequence[LayoutObject]) -> None:
        """Take what the cache has, fetch what no peer does, and then wait for the peers."""
        missing = [item for item in items if not self._from_cache(cache, item)]
        theirs = self._fetch_unlocked(cache, missing)
        until = self._patience()
        left: list[LayoutObject] = []
        for item in theirs:
            if not self._came(cache, item, until):
                left.append(item)
            elif not left:
                until = self._patience()
        self._ask_store(left)

    def _patience(self) -> float:
        """Give ``time.monotonic()`` until which a peer's next object is waited for.

        Half of what the deadline leaves at most: the other half is the store's, which may be well.
        """
        until, middle = time.monotonic() + PEER_SECONDS, self._middle()
        return until if middle is None else min(until, middle)

    def _middle(self) -> float | None:
        """Give the ``time.monotonic()`` in the middle of what the deadline leaves."""
        return None if self._deadline is None else (time.monotonic() + self._deadline) / 2

    def _share(self, sharing: Sharing, items: Sequence[LayoutObject]) -> None:
        """Read this rank's parts, exchange them, and check what came from others."""
        self._ask_store(items)
        fetcher = self._fetcher(self._store, self._window, self._terms)
        for item in items:
            arena = self._arenas[item.key]
            arena.finish()
            sharing.exchange(item, arena.tensor, self._terms.block_bytes)
            bad: list[tuple[Run, Arena]] = []
            for run in self._others_parts(sharing, item):
                if not self._terms.verify or fetcher.is_good(item, run.first, _bytes(arena, run)):
                    self._progress.add(bytes_done=run.stop - run.start)
                else:
                    bad.append((run, arena))
            fetcher.fetch_all(bad)

    def _others_parts(self, sharing: Sharing, item: LayoutObject) -> list[Run]:
        """Give the blocks of an object that others have read, one by one."""
        own = sharing.own_part(item)
        runs = runs_of(item, self._terms.block_bytes, self._terms.block_bytes)
        return [run for run in runs if run.first not in own]

    def _fetch_unlocked(
        self, cache: NodeCache, items: Sequence[LayoutObject]
    ) -> list[LayoutObject]:
        """Fetch and cache what no peer is fetching; gives back what one is."""
        theirs: list[LayoutObject] = []
        with ExitStack() as locks:
            mine: list[tuple[LayoutObject, Callable[[], None]]] = []
            for item in items:
                if not cache.keeps(item):
                    mine.append((item, nobody_waits))
                    continue
                release = locks.enter_context(cache.lock(item, wait_until=0.0))
                if cache.error or (release and not self._from_cache(cache, item)):
                    mine.append((item, release or nobody_waits))
                elif release:
                    release()
                else:
                    theirs.append(item)
            self._fetch(cache, mine)
        return theirs

    def _came(self, cache: NodeCache, item: LayoutObject, until: float) -> bool:
        """Wait for a peer's object, or fetch it where the peer has given up; False: it hangs."""
        with cache.lock(item, until) as release:
            if self._from_cache(cache, item):
                return True
            if release:
                self._fetch(cache, [(item, release)])
            return release is not None

    def _fetch(
        self, cache: NodeCache, work: Sequence[tuple[LayoutObject, Callable[[], None]]]
    ) -> None:
        """Read objects from the store, and write to the cache what it takes.

        With each goes what lets its lock go: called once its entry is there or will not be.
        """
        with ExitStack() as stack:
            writers = [stack.enter_context(cache.writer(item, done)) for item, done in work]
            self._ask_store([item for item, _ in work], writers)

    def _from_cache(self, cache: NodeCache, item: LayoutObject) -> bool:
        """Read one object from the cache; a bad entry is dropped, a disk that hangs given up."""
        if not cache.holds(item):
            return False
        done = self._progress.bytes_done
        until = self._deadline if self._reuses_memory else self._middle()
        try:
            with LocalStore(StoreUri("file", "", str(cache.folder))) as store:
                terms = replace(self._terms, deadline=until)
                self._arenas[item.key] = self._read_entry(store, item, terms)
        except ChecksumMismatch:
            cache.drop(item)
        except StorageError:
            if is_over(self._deadline):
                raise
            if is_over(until):
                cache.give_up()
            else:
                cache.drop(item)
        else:
            self._progress.add(cache_hits=1, cache_bytes=item.bytes)
            return True
        self._progress.add(bytes_done=done - self._progress.bytes_done)
        return False

    def _read_entry(self, store: LocalStore, item: LayoutObject, terms: Terms) -> Arena:
        """Read an object that lies under its checksum, into the memory that ``item`` is to have."""
        entry = item.model_copy(update={"key": item.sha256})
        with self._opened(store) as (source, arena_of):
            with self._progress.timed("allocate"):
                mapped = isinstance(source, MappedStore)
                arena = arena_of(entry) if mapped else self._make_arena(item)
            fetcher = self._fetcher(source, Window(terms.concurrency), terms)
            try:
                fetcher.fetch_all([(run, arena) for run in self._runs(entry)])
            except (ChecksumMismatch, StorageError):
                if self._reuses_memory:  # the store's bytes are to come into the same
                    fetcher.settle(self._deadline)
                raise
        return arena

    def _ask_store(
        self, items: Sequence[LayoutObject], writers: Sequence[CacheWriter | None] = ()
    ) -> None:
        arenas = self._read(items, writers)
        self._arenas |= zip((item.key for item in items), arenas, strict=True)

    def _read(
        self, items: Sequence[LayoutObject], writers: Sequence[CacheWriter | None]
    ) -> list[Arena]:
        """Read objects, each into an arena of its own, and what has a writer into that too."""
        with self._opened(self._store) as (source, arena_of):
            with self._progress.timed("allocate"):
                arenas = [arena_of(item) for item in items]
            written = [
                arena if writer is None else CachingArena(arena, writer)
                for arena, writer in zip_longest(arenas, writers)
            ]
            work = [
                (run, arena)
                for item, arena in zip(items, written, strict=True)
                for run in self._runs(item)
            ]
            self._fetcher(source, self._window, self._terms).fetch_all(work)
        return arenas

    def _runs(self, item: LayoutObject) -> Iterator[Run]:
        part = None if self._sharing is None else self._sharing.own_part(item)
        return runs_of(item, self._terms.block_bytes, self._terms.range_bytes, part)

    def _fetcher(self, source: RangeStore, window: Window, terms: Terms) -> Fetcher:
        # A second read of a file asks the same disk.
        hedged = not isinstance(source, LocalStore | MappedStore)
        return Fetcher(source, terms, window, hedged)

    @contextmanager
    def _opened(self, store: ObjectStore) -> Iterator[tuple[RangeStore, ArenaMaker]]:
        """Decide how a store is read: what gives its bytes, and what takes them."""
        if not (isinstance(store, LocalStore) and self._maps(store)):
            yield store, self._make_arena
            return
        with MappedStore(store) as mapped:
            yield mapped, lambda item: MappedArena(mapped.map(item.key, item.bytes))

    def _maps(self, store: ObjectStore) -> bool:
        """Whether a store's objects are mapped where they lie, which shares them by itself."""
        return self._map_files and isinstance(store, LocalStore) and can_map(store.root)


def _bytes(arena: Arena, run: Run) -> memoryview:
    """Give the bytes of a run in host memory, where they may be already."""
    return arena.tensor[run.start : run.stop].cpu().numpy().data
