from __future__ import annotations

from collections import Counter

import pytest

from tests.crashmatrix.calls import Call
from tests.crashmatrix.deaths import Death, deaths_of, lives_of, sample
from tests.crashmatrix.steps import STEPS, taken

JOBS = "/apis/batch/v1/namespaces/life-1/jobs"
LOOK, WRITE = Call("GET", f"{JOBS}/m"), Call("PATCH", f"{JOBS}/m")


@pytest.mark.parametrize(
    ("call", "counts"),
    [
        (WRITE, True),
        (Call("POST", "/api/v1/namespaces/life-1/events"), True),
        (LOOK, True),
        (Call("GET", JOBS), False),
        (Call("GET", JOBS, watches=True), False),
        (Call("GET", "/apis/batch/v1"), False),
    ],
)
def test_writes_and_looks_at_one_object_count(call: Call, counts: bool) -> None:
    assert call.counts is counts


def test_a_call_is_called_as_rbac_names_it() -> None:
    status = Call("PATCH", "/apis/shardedmodel.dev/v1alpha1/namespaces/a/shardedmodels/m/status")
    assert [str(LOOK), str(WRITE), str(status)] == [
        "get jobs",
        "patch jobs",
        "patch shardedmodels/status",
    ]


def test_a_write_is_died_at_twice_and_a_look_once() -> None:
    assert deaths_of({"create": [LOOK, WRITE]}) == [
        Death("create", 0, "before"),
        Death("create", 1, "before"),
        Death("create", 1, "after"),
    ]


def test_a_life_has_one_death_in_a_step() -> None:
    deaths = deaths_of({"create": [WRITE, WRITE], "delete": [WRITE]})
    lives = lives_of(deaths)
    assert [len(life.deaths) for life in lives] == [2, 2, 1, 1]
    assert sorted(d for life in lives for d in life.deaths.values()) == sorted(deaths)


def test_a_sample_takes_from_every_step_and_the_same_for_the_same_seed() -> None:
    deaths = deaths_of({"create": [WRITE] * 20, "delete": [WRITE] * 3})
    found = sample(deaths, 8, seed=5)
    assert Counter(death.step for death in found) == {"create": 4, "delete": 4}
    assert found == sample(deaths, 8, seed=5) != sample(deaths, 8, seed=6)


def test_a_sample_larger_than_all_is_all() -> None:
    deaths = deaths_of({"create": [WRITE]})
    assert sample(deaths, 10, seed=0) == deaths


def test_a_life_scales_down_again_what_it_scaled_up() -> None:
    up, down = STEPS[1], STEPS[2]
    assert down.undoes == up.name
    for name in (up.name, down.name):
        assert {up, down} <= set(taken([name]))
    assert [step.needed for step in taken([])] == [True, True]
