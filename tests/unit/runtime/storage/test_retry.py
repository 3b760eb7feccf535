from __future__ import annotations

import pytest

from shardedmodel_runtime.errors import NotFound, Unavailable
from shardedmodel_runtime.storage.retry import RetryPolicy


class Flaky:
    """Fails a number of times, then answers."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise Unavailable("gone")
        return "here"


def no_wait(attempts: int = 4) -> RetryPolicy:
    return RetryPolicy(attempts=attempts, sleep=lambda seconds: None)


def test_what_succeeds_within_the_attempts_succeeds() -> None:
    assert no_wait(4).run(Flaky(3), lambda error: None) == "here"


def test_the_last_failure_is_raised_with_the_number_of_attempts() -> None:
    with pytest.raises(Unavailable, match=r"gone \(after 4 attempts\)"):
        no_wait(4).run(Flaky(4), lambda error: None)


def test_repetitions_are_told_of() -> None:
    told: list[Unavailable] = []
    no_wait().run(Flaky(2), told.append)
    assert [error.message for error in told] == ["gone", "gone"]


def test_what_cannot_heal_is_not_repeated() -> None:
    calls: list[None] = []

    def refuse() -> None:
        calls.append(None)
        raise NotFound("no")

    with pytest.raises(NotFound):
        no_wait().run(refuse, lambda error: None)
    assert len(calls) == 1


def test_waits_grow_up_to_a_limit_and_differ() -> None:
    policy = RetryPolicy(base_seconds=1.0, max_seconds=4.0)
    for failures, mean in ((1, 1.0), (2, 2.0), (3, 4.0), (9, 4.0)):
        assert all(0.5 * mean <= policy.delay(failures) <= 1.5 * mean for _ in range(20))
    assert len({policy.delay(3) for _ in range(20)}) > 1


def test_it_waits_before_each_repetition() -> None:
    waits: list[float] = []
    RetryPolicy(attempts=3, sleep=waits.append).run(Flaky(2), lambda error: None)
    assert len(waits) == 2


def test_a_caller_may_wait_in_its_own_way() -> None:
    waits: list[float] = []
    no_wait().run(Flaky(2), lambda error: None, waits.append)
    assert len(waits) == 2
