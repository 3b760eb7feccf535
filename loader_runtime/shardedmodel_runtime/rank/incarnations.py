"""The incarnation protocol: which processes are the group now, agreed on through one store.

A group's incarnations are counted from 0 under the key ``incarnation``. At each, a rank's slot
``inc/<n>/member/<rank>`` belongs to the first process that writes its own id there. A process
that is new and finds its slot taken replaces a lost one: it moves the group on to the next
incarnation. The others see the counter move, and follow. Every step is one compare-and-set, so
processes that act at once agree, whatever their order.

An incarnation is formed once all have arrived with weights of one manifest, whose SHA-256 is part
of an arrival's key.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from shardedmodel_runtime.errors import GroupError
from shardedmodel_runtime.rank.store import Store

_INCARNATION = "incarnation"


def read(store: Store, key: str, default: str = "") -> str:
    """Give the value of ``key``; where there is none it becomes ``default``. Never blocks."""
    return bytes(store.compare_set(key, "", default)).decode()


class Member:
    """One process's part in the protocol; lives longer than any store.

    Args:
        rank: its rank.
        world_size: ranks of the group.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.id = uuid.uuid4().hex
        self.manifest = ""
        """SHA-256 of the manifest whose weights it holds; empty: of none yet."""
        self._joined = -1

    @property
    def incarnation(self) -> int:
        """The incarnation that was joined last; 0 before any."""
        return max(self._joined, 0)

    def join(self, store: Store) -> int:
        """Become a member of the group as it is now, or of the next incarnation.

        A process that was a member before never returns to an incarnation that it has left; a
        store that begins anew, because rank 0 did, is moved on by those who remember.

        Returns:
            The incarnation.

        Raises:
            GroupError: another process has taken over this rank.
        """
        now = int(read(store, _INCARNATION, "0"))
        while True:
            while now <= self._joined:
                now = _advance(store, now)
            if read(store, f"inc/{now}/member/{self.rank}", self.id) == self.id:
                self._joined = now
                return now
            if self._joined >= 0:
                raise GroupError(
                    f"rank {self.rank}: another process has taken over this rank at incarnation "
                    f"{now}; it goes on there"
                )
            now = _advance(store, now)

    def is_current(self, store: Store) -> bool:
        """Whether the group is still at the incarnation that this process joined last."""
        return int(read(store, _INCARNATION, "0")) == self._joined

    def arrive(self, store: Store, incarnation: int, words: str) -> None:
        """Say that this rank has its weights and is ready to form the group.

        Args:
            store: the group's.
            incarnation: which is to be formed.
            words: what whoever counts the arrivals shall know of this rank.
        """
        store.set(self.arrival_keys(incarnation)[self.rank], words)
        store.add(self._count_key(incarnation), 1)

    def arrival_keys(self, incarnation: int) -> dict[int, str]:
        """Give the key of each rank's arrival at ``incarnation`` with this rank's manifest."""
        prefix = f"inc/{incarnation}/arrived/{self.manifest}"
        return {rank: f"{prefix}/{rank}" for rank in range(self.world_size)}

    def are_all_here(self, store: Store, incarnation: int) -> bool:
        """Whether all ranks have arrived at ``incarnation`` with this rank's manifest.

        While some are missing that is one small question, whatever the group's size. Whoever says
        once more that it has arrived, its connection having broken meanwhile, is counted twice, so
        only the ranks' own keys prove that nobody is missing.
        """
        arrivals = store.add(self._count_key(incarnation), 0)
        if arrivals < self.world_size:
            return False
        return store.check(list(self.arrival_keys(incarnation).values()))

    def missing(self, store: Store, incarnation: int) -> list[int]:
        """Give the ranks that have not arrived, by one question for each: for a message only."""
        keys = self.arrival_keys(incarnation)
        return [rank for rank, key in keys.items() if not store.check([key])]

    def _count_key(self, incarnation: int) -> str:
        return f"inc/{incarnation}/arrivals/{self.manifest}"


def _advance(store: Store, incarnation: int) -> int:
    """Move the counter on from ``incarnation``, unless another did; give where it is now."""
    return int(bytes(store.compare_set(_INCARNATION, str(incarnation), str(incarnation + 1))))


def write_lost(store: Store, ranks: Iterable[int]) -> None:
    """Tell all which ranks the group misses."""
    store.set("lost", ",".join(map(str, ranks)))


def read_lost(store: Store) -> list[int]:
    """Give the ranks that the group misses, as rank 0 sees it."""
    return [int(rank) for rank in read(store, "lost").split(",") if rank]


def write_failure(store: Store, text: str) -> None:
    """Tell all which rank gave up, and why; empty: none."""
    store.set("failure", text)


def read_failure(store: Store) -> str:
    """Give why a rank gave up, as rank 0 knows it."""
    return read(store, "failure")
