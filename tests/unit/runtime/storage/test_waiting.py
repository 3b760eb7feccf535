from __future__ import annotations

import threading

import pytest

from shardedmodel_runtime.errors import NotFound, Unavailable
from shardedmodel_runtime.storage.waiting import within

LONG_SECONDS = 30.0
"""More than any of these tests takes."""


def late() -> Unavailable:
    return Unavailable("late")


def fail() -> None:
    raise NotFound("gone")


@pytest.mark.parametrize("seconds", [None, LONG_SECONDS])
def test_what_ends_in_time_gives_its_result(seconds: float | None) -> None:
    assert within(seconds, lambda: 7, late) == 7


@pytest.mark.parametrize("seconds", [None, LONG_SECONDS])
def test_what_fails_in_time_raises_its_own_error(seconds: float | None) -> None:
    with pytest.raises(NotFound, match="gone"):
        within(seconds, fail, late)


def test_what_hangs_is_left_to_itself() -> None:
    answered = threading.Event()
    with pytest.raises(Unavailable, match="late"):
        within(0.01, lambda: answered.wait(LONG_SECONDS), late)
    answered.set()


def test_without_a_limit_work_is_done_where_it_was_asked_for() -> None:
    assert within(None, threading.get_ident, late) == threading.get_ident()
