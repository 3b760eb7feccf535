from __future__ import annotations

import threading

import pytest

from shardedmodel_runtime.layout.buffers import BufferPool
from tests.measured_pool import MeasuredPool


def test_buffers_are_used_again() -> None:
    pool = BufferPool(100)
    first = pool.take(40)
    pool.give(first)
    assert pool.take(40) is first


def test_the_budget_is_never_exceeded() -> None:
    pool = MeasuredPool(100)
    pool.give(pool.take(60))
    pool.take(50)
    assert pool.peak_bytes <= 100


def test_who_finds_no_room_waits_for_a_buffer_to_come_back() -> None:
    pool = BufferPool(100)
    held = pool.take(60)
    taken = threading.Event()

    def take() -> None:
        pool.take(60)
        taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(0.05)
    pool.give(held)
    assert taken.wait(5)
    thread.join()


def test_what_could_never_be_given_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond the budget 100"):
        BufferPool(100).take(101)
