"""The sweep: every few minutes, compare the cache with lists, whatever the watches said.

Watches can fall silent, and a deletion between two watches is never told. The sweep repairs what
they missed and says so: a kind whose watch misses an object twice in a row is reported as silent,
which ends in the liveness probe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from shardedmodel_operator.cluster.cache import Key, ObjectCache, key_of
from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.resources import MODELS, WATCHED, Object, Resource
from shardedmodel_operator.errors import ClusterError
from shardedmodel_operator.reconciling.handlers import SELECTOR
from shardedmodel_operator.reconciling.queue import WorkQueue

logger = logging.getLogger(__name__)

GRACE_SECONDS = 15.0
"""Time that the watches get to tell what a list saw already; they need milliseconds."""

READY_POLL_SECONDS = 0.5
"""How often the start asks whether the watches have told of everything; seconds at most."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list of one kind told, beside what the cache knew already."""

    uids: set[str] = field(default_factory=set)
    """Of all objects."""
    news: list[Object] = field(default_factory=list)
    """Objects that the cache lacked, or held in an older version. All else is let go at once: a
    thousand models have more objects than there is memory for."""


class Sweeper:
    """Compares, repairs, and enqueues every model."""

    def __init__(
        self,
        cluster: Cluster,
        cache: ObjectCache,
        queue: WorkQueue,
        namespaces: Sequence[str],
        watched: Sequence[Resource] = WATCHED,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """Sweep ``namespaces`` (none: all of them), leaving the watches ``grace`` seconds."""
        self._cluster = cluster
        self._cache = cache
        self._queue = queue
        self._namespaces: Sequence[str | None] = namespaces or [None]
        self._watched = watched
        self._grace = grace
        self._missed: set[Resource] = set()
        self.ready = False
        """Whether the watches have told of everything that was there at the start."""
        self.silent: frozenset[str] = frozenset()
        """Kinds whose watches missed something in two sweeps in a row."""

    async def wait_until_ready(self) -> None:
        """Wait until the cache holds what is in the cluster.

        Raises:
            ClusterError: a kind cannot be listed.
        """
        while not self.ready:
            self.ready = await self._is_whole()

    async def run(self, interval: float) -> None:
        """Sweep every ``interval`` seconds, for ever."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.sweep(interval)
            except ClusterError as e:
                logger.warning("sweep: %s", e)

    async def sweep(self, interval: float) -> None:
        """Sweep once, and have every model looked at within ``interval`` seconds.

        Raises:
            ClusterError: a kind cannot be listed.
        """
        before = {resource: self._cache.versions(resource) for resource in self._watched}
        listed = {resource: await self._list(resource) for resource in self._watched}
        await asyncio.sleep(self._grace)
        missed = {r for r in self._watched if await self._repair(r, before[r], listed[r])}
        self.silent = frozenset(r.kind for r in missed & self._missed)
        self._missed = missed
        keys = sorted(self._cache.models())
        for number, key in enumerate(keys):
            # One after another: all at once they would keep a change waiting for seconds.
            await self._queue.add(key, interval * number / len(keys))

    async def _is_whole(self) -> bool:
        """Whether the cache knows all that is listed now; the watches get a moment for it."""
        for resource in self._watched:
            async for page in self._pages(resource):
                news = [body for body in page if not self._cache.knows(resource, body)]
                if news:
                    await asyncio.sleep(READY_POLL_SECONDS)
                if not all(self._cache.knows(resource, body) for body in news):
                    return False
        return True

    async def _list(self, resource: Resource) -> Listed:
        listed = Listed()
        async for page in self._pages(resource):
            listed.uids.update(body["metadata"]["uid"] for body in page)
            listed.news.extend(body for body in page if not self._cache.knows(resource, body))
        return listed

    async def _pages(self, resource: Resource) -> AsyncIterator[Sequence[Object]]:
        selector = "" if resource == MODELS else SELECTOR
        for namespace in self._namespaces:
            pages = self._cluster.list_pages(resource, namespace, selector)
            while (page := await asyncio.to_thread(next, pages, None)) is not None:
                yield page

    async def _repair(self, resource: Resource, before: Mapping[str, int], listed: Listed) -> bool:
        """Bring the cache up to the list; tells whether the watch missed anything.

        Args:
            resource: the kind.
            before: versions by uid in the cache before the list was asked for: what is in it and
                not in the list was deleted, since a uid never comes back.
            listed: the list, after which the watches had their time.
        """
        held = self._cache.versions(resource)
        vanished = [uid for uid in before if uid not in listed.uids and uid in held]
        behind = [body for body in listed.news if not self._cache.knows(resource, body)]
        owners: set[Key | None] = {self._cache.owner(resource, uid) for uid in vanished}
        owners |= {key_of(resource, body) for body in behind}
        for uid in vanished:
            self._cache.remove(resource, uid, held[uid])
        for body in behind:
            self._cache.put(resource, body)
        for key in filter(None, owners):
            await self._queue.add(key)
        if vanished or behind:
            logger.warning(
                "the watch of %s missed %d deletions and %d changes",
                resource.plural,
                len(vanished),
                len(behind),
            )
        return bool(vanished or behind)
