from __future__ import annotations

from torch.distributed import HashStore  # type: ignore[attr-defined]

from shardedmodel_runtime.rank.incarnations import Member, read_lost
from shardedmodel_runtime.rank.roster import (
    LOST_SECONDS,
    Roster,
    make_beat,
    read_arrivals,
    write_beat,
)
from shardedmodel_runtime.report import RankReport


def beat(store: HashStore, rank: int, state: str = "ready") -> None:
    report = RankReport.model_validate({"rank": rank, "state": state})
    write_beat(store, Member(rank, 2), lambda: report)


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


def test_a_rank_that_gave_up_says_why_also_when_it_is_gone() -> None:
    store, roster = HashStore(), Roster(2)
    report = RankReport(rank=1, state="failed", message="block 7 differs")
    write_beat(store, Member(1, 2), lambda: report)
    roster.refresh(store, now=0)
    roster.refresh(store, now=LOST_SECONDS + 1)
    assert (states(roster)[1], roster.failure()) == ("failed", "rank 1 failed: block 7 differs")
    assert read_lost(store) == [1]


def test_a_rank_that_replaced_a_failed_one_takes_its_failure_away() -> None:
    store, roster = HashStore(), Roster(2)
    report = RankReport(rank=1, state="failed", message="block 7 differs")
    write_beat(store, Member(1, 2), lambda: report)
    roster.refresh(store, now=0)
    beat(store, 1, "loading")
    roster.refresh(store, now=1)
    assert roster.failure() == ""


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


def test_a_beat_that_was_overtaken_by_a_later_one_does_not_count() -> None:
    member, roster = Member(0, 1), Roster(1)
    earlier = make_beat(member, lambda: RankReport(rank=0, bytes_read=1))
    later = make_beat(member, lambda: RankReport(rank=0, bytes_read=2))
    roster.hear(0, later, now=0)
    roster.hear(0, earlier, now=0)
    assert roster.reports()[0].bytes_read == 2


def test_a_process_that_replaces_another_is_heard_whatever_its_number() -> None:
    former, roster = Member(0, 1), Roster(1)
    first = make_beat(Member(0, 1), lambda: RankReport(rank=0, pod="new"))
    roster.hear(0, make_beat(former, lambda: RankReport(rank=0, pod="old")), now=0)
    roster.hear(0, first, now=0)
    assert roster.reports()[0].pod == "new"


def test_ranks_arrive_with_the_figures_of_their_load() -> None:
    store, member = HashStore(), Member(1, 2)
    words = make_beat(member, lambda: RankReport(rank=1, bytes_read=7)).to_json()
    member.arrive(store, 3, words)
    arrived = read_arrivals(store, member, 3)
    assert {rank: beat.report.bytes_read for rank, beat in arrived.items()} == {1: 7}
