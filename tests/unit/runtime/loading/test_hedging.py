from __future__ import annotations

from shardedmodel_runtime.loading.hedging import AT_ONCE, LEAST_SECONDS, PEERS_NEEDED, Hedging


def learned(ranges: int = 1000, seconds: float = 1.0) -> Hedging:
    hedging = Hedging(ranges)
    for _ in range(PEERS_NEEDED):
        hedging.finished(seconds)
    return hedging


def test_nothing_is_slow_before_its_peers_are_known() -> None:
    assert Hedging(1000).slow_after() is None


def test_slow_is_a_multiple_of_what_peers_take() -> None:
    assert learned(seconds=1.0).slow_after() == 4.0


def test_what_is_fast_anyway_is_not_asked_for_twice() -> None:
    assert learned(seconds=0.001).slow_after() == LEAST_SECONDS


def test_few_second_requests_are_made_at_once() -> None:
    hedging = learned()
    for _ in range(AT_ONCE):
        hedging.began()
    assert hedging.slow_after() is None
    hedging.ended()
    assert hedging.slow_after() is not None


def test_one_range_in_twenty_may_be_asked_for_twice() -> None:
    hedging = learned(ranges=60)
    for _ in range(3):
        hedging.began()
        hedging.ended()
    assert hedging.slow_after() is None


def test_where_no_range_may_be_asked_for_twice_nothing_is_slow() -> None:
    assert learned(ranges=0).slow_after() is None


def test_a_small_load_may_ask_twice_for_one_range() -> None:
    assert learned(ranges=5).slow_after() is not None
