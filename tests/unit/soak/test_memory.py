from __future__ import annotations

import os

from tests.soak.memory import MIB, Life, growing, resident_bytes


def life(mib_per_minute: float, minutes: float = 10.0, warm_up_mib: float = 40.0) -> Life:
    """100 MiB after a warm-up in its first minute, then growing steadily; every 5 s."""
    samples = []
    for number in range(int(minutes * 12)):
        at = number * 5.0
        grown = min(at / 60, 1.0) * warm_up_mib + at / 60 * mib_per_minute
        samples.append((at, int((60 + grown) * MIB)))
    return Life("operator-0", 1, samples)


def test_the_slope_is_that_of_the_growth_after_the_warm_up() -> None:
    assert abs(life(2.0).bytes_per_minute - 2 * MIB) < 0.01 * MIB


def test_a_process_that_only_warms_up_is_flat() -> None:
    assert growing([life(0.0)]) == []


def test_a_process_that_grows_is_found() -> None:
    assert growing([life(1.0)]) == ["operator operator-0 (pid 1) grows by 1.00 MiB/min"]


def test_one_that_lived_for_a_short_time_is_not_judged() -> None:
    assert growing([life(0.0), life(5.0, minutes=4)]) == []


def test_the_memory_of_a_process_is_read() -> None:
    assert resident_bytes(os.getpid()) > MIB


def test_a_process_that_has_ended_has_none() -> None:
    assert resident_bytes(2**30) == 0
