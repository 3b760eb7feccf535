"""The window against a simulated link: no thread, no clock."""

from __future__ import annotations

import heapq

import pytest

from shardedmodel_runtime.loading.window import START, Window

RANGE = 16 * 2**20


class Link:
    """A store behind a link: each read gets an equal share of it, up to a connection's own rate.

    Args:
        rate: bytes/s of the link.
        connection: bytes/s of one connection, at most.
        takes: reads at once beyond which the store answers 503; None: any number.
    """

    def __init__(self, rate: float, connection: float, takes: int | None = None) -> None:
        self.rate = rate
        self.connection = connection
        self.takes = takes
        self.refused = 0

    def load(self, window: Window, ranges: int) -> float:
        """Read ``ranges`` ranges; gives the bytes/s over all but the first quarter."""
        now, started, read, quarter = 0.0, 0, 0, 0.0
        flying: list[tuple[float, float, bool]] = []
        while read < ranges:
            while len(flying) < window.size and started - self.refused < ranges:
                refused = self.takes is not None and len(flying) >= self.takes
                share = min(self.connection, self.rate / (len(flying) + 1))
                seconds = 0.01 if refused else RANGE / share
                heapq.heappush(flying, (now + seconds, now, refused))
                started += 1
            now, began, refused = heapq.heappop(flying)
            if refused:
                self.refused += 1
                window.failed(began, now)
            else:
                read += 1
                window.finished(began, now, RANGE)
            if read == ranges // 4:
                quarter = now
        return (ranges - ranges // 4) * RANGE / (now - quarter)


def test_a_window_grows_until_the_link_is_full() -> None:
    link = Link(rate=5e9, connection=85e6)
    assert link.load(Window(256), 4000) > 0.9 * link.rate


def test_a_window_stops_where_more_reads_bring_nothing() -> None:
    window = Window(256)
    Link(rate=1e9, connection=250e6).load(window, 2000)
    assert window.size <= 16


def test_a_window_never_exceeds_its_limit() -> None:
    window = Window(6)
    Link(rate=1e12, connection=1e8).load(window, 500)
    assert window.size == 6


def test_a_limit_below_the_start_is_kept() -> None:
    assert Window(START - 1).size == START - 1


def test_a_refusal_halves_the_window_once_for_all_reads_that_were_under_way() -> None:
    window = Window(64)
    window.size = 32
    window.failed(began=1.0, now=2.0)
    window.failed(began=1.5, now=2.1)
    assert window.size == 16


def test_a_refusal_of_a_later_read_halves_the_window_again() -> None:
    window = Window(64)
    window.size = 32
    window.failed(began=1.0, now=2.0)
    window.failed(began=2.5, now=3.0)
    assert window.size == 8


def test_a_window_keeps_one_place() -> None:
    window = Window(64)
    for now in range(10):
        window.failed(began=now, now=now + 0.5)
    assert window.size == 1


@pytest.mark.parametrize("takes", [8, 20])
def test_a_store_that_takes_few_reads_is_kept_busy_and_rarely_refuses(takes: int) -> None:
    link = Link(rate=1e12, connection=85e6, takes=takes)
    rate = link.load(Window(256), 4000)
    assert rate > 0.6 * takes * link.connection
    assert link.refused < 4000 / 20


def test_after_a_refusal_a_window_grows_again() -> None:
    window = Window(64)
    window.failed(began=0.0, now=0.0)
    Link(rate=5e9, connection=85e6).load(window, 4000)
    assert window.size > 16
