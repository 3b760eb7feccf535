from __future__ import annotations

from torch.distributed import HashStore  # type: ignore[attr-defined]

from shardedmodel_runtime.rank.incarnations import Member, read_lost
from shardedmodel_runtime.rank.roster import LOST_SECONDS, Roster, write_beat
from shardedmodel_runtime.report import RankReport


def beat(store: HashStore, rank: int, state: str = "ready") -> None:
    report = RankReport.model_validate({"rank": rank, "state": state})
    write_beat(store, Member(rank, 2), report)


def states(roster: Roster) -> list[str]:
    return [report.state for report in roster.reports()]


def test_a_rank_that_was_never_heard_is_starting() -> None:
    store, roster = HashStore(), Roster(2)
    beat(store, 0)
    roster.refresh(store, now=0)
    assert states(roster) == ["ready", "starting"]


def test_a_rank_that_stops_beating_is_lost() -> None:
    store, roster = HashStore(), Roster(2)
    beat(store, 0)
    beat(store, 1)
    roster.refresh(store, now=0)
    beat(store, 0)
    roster.refresh(store, now=LOST_SECONDS + 1)
    assert (states(roster), read_lost(store)) == (["ready", "lost"], [1])


def test_a_lost_rank_that_beats_again_is_back() -> None:
    store, roster = HashStore(), Roster(2)
    beat(store, 1)
    roster.refresh(store, now=0)
    roster.refresh(store, now=LOST_SECONDS + 1)
    beat(store, 1, "loading")
    roster.refresh(store, now=LOST_SECONDS + 2)
    assert (states(roster)[1], read_lost(store)) == ("loading", [])


def test_a_rank_that_says_the_same_with_every_beat_is_not_lost() -> None:
    store, roster = HashStore(), Roster(1)
    for now in range(0, 20, 4):
        beat(store, 0)
        roster.refresh(store, now)
    assert states(roster) == ["ready"]
