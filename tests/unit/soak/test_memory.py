from __future__ import annotations

import os
from collections.abc import Callable

from tests.soak.memory import MIB, Life, growing, resident_bytes

KIB = 1024
CHANGES = 600
NOISE = (0, 300 * KIB, 100 * KIB, 400 * KIB, 200 * KIB)
"""Pages that come and go."""


def life(mib_per_minute: float, minutes: float = 10.0, warm_up_mib: float = 40.0) -> Life:
    """100 MiB after a warm-up in its first minute, then growing steadily; every 5 s.

    It handles a stream of changes without growing.
    """
    samples = []
    for number in range(int(minutes * 12)):
        at = number * 5.0
        grown = min(at / 60, 1.0) * warm_up_mib + at / 60 * mib_per_minute
        samples.append((at, int((60 + grown) * MIB)))
    return Life("operator-0", 1, samples, streamed(lambda _: 0.0).handled)


def streamed(grown: Callable[[int], float], changes: int = CHANGES) -> Life:
    """A process of 100 MiB that has ``grown`` by so many bytes after so many changes."""
    handled = [
        (count, int(100 * MIB + grown(count) + NOISE[count // 20 % len(NOISE)]))
        for count in range(0, changes + 1, 20)
    ]
    return Life("operator-0", 1, [(0.0, 100 * MIB)], handled)


def test_the_slope_is_that_of_the_growth_after_the_warm_up() -> None:
    assert abs(life(2.0).bytes_per_minute - 2 * MIB) < 0.01 * MIB


def test_a_process_that_only_warms_up_is_flat() -> None:
    assert growing([life(0.0)]) == []


def test_a_process_that_grows_is_found() -> None:
    assert growing([life(1.0)]) == ["operator operator-0 (pid 1) grows by 1.00 MiB/min"]


def test_one_that_lived_for_a_short_time_is_not_judged_by_its_minutes() -> None:
    assert growing([life(0.0), life(5.0, minutes=6)]) == []


def test_a_leak_of_10_kib_for_each_change_is_found() -> None:
    [finding] = growing([streamed(lambda count: count * 10 * KIB)])
    assert finding.startswith("operator operator-0 (pid 1) grows by 10.")


def test_a_leak_is_found_behind_a_warm_up() -> None:
    def grown(count: int) -> float:
        return min(count, 100) * 40 * KIB + count * 10 * KIB

    assert len(growing([streamed(grown)])) == 1


def test_a_warm_up_by_the_first_changes_is_no_leak() -> None:
    assert growing([streamed(lambda count: min(count, 150) * 40 * KIB)]) == []


def test_a_warm_up_that_slows_down_is_no_leak() -> None:
    assert growing([streamed(lambda count: 4 * MIB * (1 - 0.99**count))]) == []


def test_a_process_that_saw_few_changes_is_not_judged_by_them() -> None:
    short = streamed(lambda count: count * 40 * KIB, changes=200)
    assert growing([life(0.0), short]) == []


def test_a_stream_that_no_process_lived_through_is_a_finding() -> None:
    assert growing([streamed(lambda _: 0.0, changes=100)]) == [
        "no operator lived through 200 changes of the stream"
    ]


def test_the_memory_of_a_process_is_read() -> None:
    assert resident_bytes(os.getpid()) > MIB


def test_a_process_that_has_ended_has_none() -> None:
    assert resident_bytes(2**30) == 0
