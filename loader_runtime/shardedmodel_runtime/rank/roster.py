"""Who is there: beats that ranks write into the store, and what rank 0 makes of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

from shardedmodel_runtime.errors import excerpt
from shardedmodel_runtime.rank.incarnations import Member, write_lost
from shardedmodel_runtime.rank.store import Store
from shardedmodel_runtime.report import MESSAGE_LIMIT, RankReport, Wire

LOST_SECONDS = 5.0
"""A rank that has not beaten for so long is lost: ten beats, so that a busy node is not."""

_numbers = count()


class Beat(Wire):
    """One sign of life: which process, its number in order, and how it stands."""

    member: str
    number: int
    report: RankReport


def beat_key(rank: int) -> str:
    """Where a rank's beats stand; the same at each incarnation, as loading spans several."""
    return f"beat/{rank}"


def make_beat(member: Member, report: Callable[[], RankReport]) -> Beat:
    """Make a process's next beat; of two, the one with the higher number is never the staler."""
    number = next(_numbers)
    return Beat(member=member.id, number=number, report=report())


def write_beat(store: Store, member: Member, report: Callable[[], RankReport]) -> None:
    """Show that the rank lives."""
    store.set(beat_key(member.rank), make_beat(member, report).to_json())


@dataclass(slots=True)
class _Heard:
    beat: Beat
    at: float


class Roster:
    """What rank 0 has heard of each rank, by its own clock.

    Args:
        world_size: ranks of the group.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._heard: dict[int, _Heard] = {}
        self._lost: list[int] = []
        self._lock = threading.Lock()

    def refresh(self, store: Store, now: float) -> None:
        """Read the beats, and tell all which ranks are lost when that changed."""
        for rank, beat in read_beats(store, range(self._world_size)).items():
            self.hear(rank, beat, now)
        lost = self.lost(now)
        if lost != self._lost:
            write_lost(store, lost)
            self._lost = lost

    def hear(self, rank: int, beat: Beat, now: float) -> None:
        """Take a rank's beat, which may be one that was heard before, or overtaken by a later."""
        with self._lock:
            known = self._heard.get(rank)
            if known is None or known.beat.member != beat.member or known.beat.number < beat.number:
                self._heard[rank] = _Heard(beat, now)

    def lost(self, now: float) -> list[int]:
        """Give the ranks that were heard once but not lately."""
        return [r for r, heard in sorted(self._heard.items()) if now - heard.at > LOST_SECONDS]

    def failure(self) -> str:
        """Say which rank gave up and why, for the first that said so; empty: none did."""
        for rank, heard in sorted(self._heard.items()):
            if heard.beat.report.state == "failed":
                return excerpt(
                    f"rank {rank} failed: {heard.beat.report.message}", MESSAGE_LIMIT // 2
                )
        return ""

    def reports(self) -> list[RankReport]:
        """Give every rank's last report; a lost one says so, one never heard is starting."""
        return [self._report(rank) for rank in range(self._world_size)]

    def _report(self, rank: int) -> RankReport:
        heard = self._heard.get(rank)
        if heard is None:
            return RankReport(rank=rank)
        if rank in self._lost and heard.beat.report.state != "failed":
            message = f"no sign of life for {LOST_SECONDS:.0f} s"
            return heard.beat.report.model_copy(update={"state": "lost", "message": message})
        return heard.beat.report


def read_beats(store: Store, ranks: Iterable[int]) -> dict[int, Beat]:
    """Read the latest beat of each rank that ever wrote one."""
    return _read_beats(store, {rank: beat_key(rank) for rank in ranks})


def read_arrivals(store: Store, member: Member, incarnation: int) -> dict[int, Beat]:
    """Read the beats with which ranks arrived at ``incarnation``: loaded, with final figures."""
    return _read_beats(store, member.arrival_keys(incarnation))


def _read_beats(store: Store, keys: dict[int, str]) -> dict[int, Beat]:
    if not store.check(list(keys.values())):
        keys = {rank: key for rank, key in keys.items() if store.check([key])}
    values = store.multi_get(list(keys.values())) if keys else []
    return {
        rank: Beat.model_validate_json(bytes(value))
        for rank, value in zip(keys, values, strict=True)
    }
