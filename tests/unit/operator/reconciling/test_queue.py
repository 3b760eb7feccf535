from __future__ import annotations

import asyncio

import pytest

from shardedmodel_operator.cluster.cache import Key
from shardedmodel_operator.reconciling.queue import Schedule, WorkQueue

A, B = Key("n", "a"), Key("n", "b")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_that_is_added_twice_is_taken_once() -> None:
    schedule = Schedule()
    schedule.add(A, 0)
    schedule.add(A, 0)
    assert [schedule.take(0), schedule.take(0)] == [A, None]


def test_a_delayed_key_is_taken_when_it_is_due() -> None:
    schedule = Schedule()
    schedule.add(A, 5)
    assert [schedule.take(4.9), schedule.take(5)] == [None, A]


def test_the_earliest_of_several_requests_counts() -> None:
    schedule = Schedule()
    schedule.add(A, 300)
    schedule.add(A, 0)
    assert schedule.take(0) == A
    schedule.finish(A)
    assert schedule.take(1000) is None


def test_a_later_request_does_not_postpone() -> None:
    schedule = Schedule()
    schedule.add(A, 1)
    schedule.add(A, 300)
    assert schedule.next_at() == 1


def test_nobody_gets_a_key_that_somebody_works_on() -> None:
    schedule = Schedule()
    schedule.add(A, 0)
    schedule.take(0)
    schedule.add(A, 0)
    assert schedule.take(10) is None


def test_a_change_during_the_work_is_worked_on_afterwards() -> None:
    schedule = Schedule()
    schedule.add(A, 0)
    schedule.take(0)
    schedule.add(A, 1)
    schedule.finish(A)
    assert schedule.take(1) == A


def test_keys_come_in_the_order_in_which_they_are_due() -> None:
    schedule = Schedule()
    schedule.add(A, 2)
    schedule.add(B, 1)
    assert [schedule.take(3), schedule.take(3)] == [B, A]


def test_back_off_doubles_up_to_a_minute() -> None:
    schedule = Schedule()
    assert [schedule.failed(A) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_back_off_of_one_key_leaves_others_alone() -> None:
    schedule = Schedule()
    schedule.failed(A)
    schedule.failed(A)
    assert schedule.failed(B) == 1


def test_success_ends_the_back_off() -> None:
    schedule = Schedule()
    schedule.failed(A)
    schedule.succeeded(A)
    assert schedule.failed(A) == 1


def test_depth_and_age_count_only_what_is_due() -> None:
    schedule = Schedule()
    schedule.add(A, 1)
    schedule.add(B, 100)
    assert (schedule.depth(4), schedule.oldest_age(4)) == (1, 3)


def test_an_empty_queue_has_no_age() -> None:
    queue = WorkQueue(Clock())
    assert (queue.depth(), queue.oldest_age()) == (0, 0)


def test_a_waiting_worker_gets_a_key_that_is_added() -> None:
    async def scenario() -> Key:
        queue = WorkQueue(Clock())
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        await queue.add(A)
        return await waiting

    assert asyncio.run(scenario()) == A


def test_a_waiting_worker_wakes_when_a_delay_is_over() -> None:
    async def scenario() -> Key:
        queue = WorkQueue(asyncio.get_running_loop().time)
        await queue.add(A, 0.01)
        return await queue.get()

    assert asyncio.run(scenario()) == A


@pytest.mark.parametrize(("failed", "after", "again"), [(True, None, 1), (False, 7, 7)])
def test_a_key_that_is_handed_back_comes_again_in_time(
    failed: bool, after: float | None, again: float
) -> None:
    async def scenario() -> tuple[float | None, int]:
        clock = Clock()
        queue = WorkQueue(clock)
        await queue.add(A)
        await queue.get()
        answer = await queue.done(A, failed=failed, after=after)
        clock.now = again
        return answer, queue.depth()

    assert asyncio.run(scenario()) == (again, 1)


def test_a_key_that_asks_for_nothing_does_not_come_again() -> None:
    async def scenario() -> tuple[float | None, int]:
        clock = Clock()
        queue = WorkQueue(clock)
        await queue.add(A)
        await queue.get()
        answer = await queue.done(A, failed=False)
        clock.now = 1e6
        return answer, queue.depth()

    assert asyncio.run(scenario()) == (None, 0)
