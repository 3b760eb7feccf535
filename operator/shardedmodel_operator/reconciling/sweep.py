"""The sweep: every few minutes, compare the cache with lists, whatever the watches said.

Watches can fall silent, and a deletion between two watches is never told. The sweep repairs what
they missed and says so: a kind whose watch misses an object twice in a row is reported as silent,
which ends in the liveness probe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shardedmodel_operator.cluster.cache import ObjectCache, key_of, version
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


@dataclass(frozen=True)
class Gaps:
    """What a list knows and the cache does not."""

    vanished: Sequence[str] = ()
    """Uids that the cache held before the list was made and that are not in it."""
    behind: Sequence[Object] = field(default_factory=tuple)
    """Objects that the cache lacks or holds in an older version."""


def find_gaps(
    before: Mapping[str, int], listed: Sequence[Object], cache: ObjectCache, resource: Resource
) -> Gaps:
    """Compare a list with the cache.

    Args:
        before: versions by uid in the cache before the list was asked for: what is in it and not
            in the list was deleted, since a uid never comes back.
        listed: the list.
        cache: the cache, when the watches had their time.
        resource: the kind that is compared.
    """
    now = cache.versions(resource)
    uids = {body["metadata"]["uid"] for body in listed}
    return Gaps(
        vanished=[uid for uid in before if uid not in uids and uid in now],
        behind=[
            body
            for body in listed
            if key_of(resource, body) is not None
            and not cache.is_buried(body)
            and version(body) > now.get(body["metadata"]["uid"], -1)
        ],
    )


class Sweeper:
    """Compares, repairs, and enqueues every model."""

    def __init__(
        self,
        cluster: Cluster,
        cache: ObjectCache,
        queue: WorkQueue,
        namespaces: Sequence[str],
        grace: float = GRACE_SECONDS,
    ) -> None:
        """Sweep ``namespaces`` (none: all of them), leaving the watches ``grace`` seconds."""
        self._cluster = cluster
        self._cache = cache
        self._queue = queue
        self._namespaces: Sequence[str | None] = namespaces or [None]
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
            listed = {resource: await self._list(resource) for resource in WATCHED}
            await asyncio.sleep(READY_POLL_SECONDS)
            self.ready = not any(
                find_gaps({}, listed[resource], self._cache, resource).behind
                for resource in WATCHED
            )

    async def run(self, interval: float) -> None:
        """Sweep every ``interval`` seconds, for ever."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.sweep()
            except ClusterError as e:
                logger.warning("sweep: %s", e)

    async def sweep(self) -> None:
        """Sweep once.

        Raises:
            ClusterError: a kind cannot be listed.
        """
        before = {resource: self._cache.versions(resource) for resource in WATCHED}
        listed = {resource: await self._list(resource) for resource in WATCHED}
        await asyncio.sleep(self._grace)
        missed = {r for r in WATCHED if await self._repair(r, before[r], listed[r])}
        self.silent = frozenset(r.kind for r in missed & self._missed)
        self._missed = missed
        for key in self._cache.models():
            await self._queue.add(key)

    async def _list(self, resource: Resource) -> list[Object]:
        selector = "" if resource == MODELS else SELECTOR
        found: list[Object] = []
        for namespace in self._namespaces:
            found += await asyncio.to_thread(self._cluster.list_all, resource, namespace, selector)
        return found

    async def _repair(
        self, resource: Resource, before: Mapping[str, int], listed: Sequence[Object]
    ) -> bool:
        """Bring the cache up to the list; tells whether the watch missed anything."""
        gaps = find_gaps(before, listed, self._cache, resource)
        held = self._cache.versions(resource)
        for uid in gaps.vanished:
            self._cache.remove(resource, uid, held[uid])
        for body in gaps.behind:
            self._cache.put(resource, body)
        if gaps.vanished or gaps.behind:
            logger.warning(
                "the watch of %s missed %d deletions and %d changes",
                resource.plural,
                len(gaps.vanished),
                len(gaps.behind),
            )
        return bool(gaps.vanished or gaps.behind)
