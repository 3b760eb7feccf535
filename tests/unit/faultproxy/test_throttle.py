from __future__ import annotations

import pytest

from tests.faultproxy.throttle import TokenBucket


def test_bytes_wait_for_their_tokens() -> None:
    bucket = TokenBucket(rate=100, burst=50)
    assert bucket.wait_seconds(50, now=0) == 0.5


def test_the_rate_holds_over_many_pieces() -> None:
    bucket, now = TokenBucket(rate=100, burst=50), 0.0
    for _ in range(20):
        now += bucket.wait_seconds(50, now)
    assert now == pytest.approx(10)


def test_a_pause_saves_up_one_burst_and_no_more() -> None:
    bucket = TokenBucket(rate=100, burst=50)
    assert bucket.wait_seconds(50, now=60) == 0
    assert bucket.wait_seconds(50, now=60) == 0.5
