from __future__ import annotations

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from shardedmodel_runtime.errors import GroupError
from shardedmodel_runtime.rank.incarnations import Member, read, read_lost, write_lost


def joined(store: HashStore, world_size: int) -> list[Member]:
    members = [Member(rank, world_size) for rank in range(world_size)]
    for member in members:
        member.join(store)
    return members


def test_a_fresh_group_begins_at_incarnation_0() -> None:
    assert Member(0, 2).join(HashStore()) == 0


def test_a_process_that_replaces_another_moves_the_group_on() -> None:
    store = HashStore()
    joined(store, 2)
    assert Member(1, 2).join(store) == 1


def test_survivors_see_that_the_group_moved_on() -> None:
    store = HashStore()
    survivor, _ = joined(store, 2)
    Member(1, 2).join(store)
    assert not survivor.is_current(store)


def test_survivors_follow_to_the_next_incarnation() -> None:
    store = HashStore()
    survivor, _ = joined(store, 2)
    Member(1, 2).join(store)
    assert (survivor.join(store), survivor.is_current(store)) == (1, True)


def test_two_that_are_replaced_at_once_meet_at_one_incarnation() -> None:
    store = HashStore()
    joined(store, 3)
    replacements = [Member(1, 3), Member(2, 3)]
    assert [member.join(store) for member in replacements] == [1, 1]


def test_a_process_replaced_twice_moves_the_group_on_twice() -> None:
    store = HashStore()
    joined(store, 2)
    assert [Member(1, 2).join(store), Member(1, 2).join(store)] == [1, 2]


def test_a_survivor_moves_a_fresh_store_beyond_what_it_remembers() -> None:
    survivor = joined(HashStore(), 2)[1]
    fresh = HashStore()
    reborn = Member(0, 2)
    reborn.join(fresh)
    assert (survivor.join(fresh), reborn.is_current(fresh)) == (1, False)


def test_a_survivor_whose_rank_was_taken_over_gives_up() -> None:
    store = HashStore()
    _, replaced = joined(store, 2)
    Member(1, 2).join(store)
    with pytest.raises(GroupError, match="rank 1: another process has taken over"):
        replaced.join(store)


def test_ranks_that_did_not_arrive_are_missing() -> None:
    store = HashStore()
    members = joined(store, 3)
    members[1].arrive(store, 0, "here")
    assert members[0].missing(store, 0) == [0, 2]


def test_nobody_is_missing_once_all_arrived() -> None:
    store = HashStore()
    members = joined(store, 2)
    for member in members:
        member.arrive(store, 0, "here")
    assert members[0].missing(store, 0) == []
    assert members[0].are_all_here(store, 0)


def test_a_rank_that_arrives_twice_does_not_stand_for_another() -> None:
    store = HashStore()
    members = joined(store, 2)
    for _ in range(2):
        members[0].arrive(store, 0, "here")
    assert not members[0].are_all_here(store, 0)


def test_all_are_here_though_one_arrived_twice() -> None:
    store = HashStore()
    members = joined(store, 2)
    for member in (members[0], *members):
        member.arrive(store, 0, "here")
    assert members[0].are_all_here(store, 0)


def test_ranks_are_not_asked_for_one_by_one_while_one_is_missing() -> None:
    class Unasked(HashStore):
        def check(self, keys: list[str]) -> bool:
            raise AssertionError(f"asked for {keys}")

    store = Unasked()
    first, _ = joined(store, 2)
    first.arrive(store, 0, "here")
    assert not first.are_all_here(store, 0)


def test_an_arrival_counts_for_its_own_incarnation() -> None:
    store = HashStore()
    (member,) = joined(store, 1)
    member.arrive(store, 0, "here")
    assert member.missing(store, 1) == [0]


def test_a_rank_that_arrived_with_another_manifest_is_missing() -> None:
    store = HashStore()
    members = joined(store, 2)
    for member, manifest in zip(members, ("new", "old"), strict=True):
        member.manifest = manifest
        member.arrive(store, 0, "here")
    assert [member.missing(store, 0) for member in members] == [[1], [0]]
    assert not any(member.are_all_here(store, 0) for member in members)


def test_lost_ranks_are_told_to_all() -> None:
    store = HashStore()
    write_lost(store, [1, 3])
    assert read_lost(store) == [1, 3]


def test_nobody_is_lost_before_anybody_said_so() -> None:
    assert read_lost(HashStore()) == []


def test_reading_a_key_leaves_a_value_that_is_there() -> None:
    store = HashStore()
    store.set("key", "value")
    assert read(store, "key", "default") == "value"
