from __future__ import annotations

from typing import Any

from shardedmodel_operator.cluster.cache import Key
from tests.unit.operator.cluster.builders import model_body
from tests.unit.operator.reconciling.builders import Clock, phases

LLAMA = Key("team-a", "llama")


def body(phase: str = "", **status: Any) -> dict[str, Any]:
    found = model_body()
    found["status"] = {**({"phase": phase} if phase else {}), **status}
    return found


def test_how_long_a_model_was_in_a_phase_is_known_when_it_leaves_it() -> None:
    clock = Clock()
    seen = phases(clock)
    seen.see(body())
    clock.now = 4.0
    seen.see(body("Sharding"))
    clock.now = 10.0
    seen.see(body("Loading"))
    assert seen.seconds.sums == {"Pending": 4.0, "Sharding": 6.0}


def test_a_phase_that_began_unseen_is_not_measured() -> None:
    clock = Clock()
    seen = phases(clock)
    seen.see(body("Sharding"))
    clock.now = 10.0
    seen.see(body("Loading"))
    assert not seen.seconds.sums


def test_one_that_does_not_lead_measures_and_tells_nothing() -> None:
    seen = phases(leads=False)
    seen.see(body())
    seen.see(body("Sharding"))
    assert not seen.seconds.sums
    assert not seen.states()


def test_a_model_that_was_made_anew_begins_anew() -> None:
    clock = Clock()
    seen = phases(clock)
    seen.see(body())
    clock.now = 10.0
    anew = body("Sharding")
    anew["metadata"]["uid"] = "another"
    seen.see(anew)
    assert not seen.seconds.sums


def test_stalled_models_and_missing_ranks_are_told() -> None:
    seen = phases()
    seen.see(
        body(
            "Degraded",
            groups=[{"ranks": 4, "readyRanks": 3}, {"ranks": 4, "readyRanks": 4}],
            conditions=[{"type": "Stalled", "status": "True", "reason": "CrashLoop"}],
        )
    )
    state = seen.states()[LLAMA]
    assert (state.phase, state.stalled, state.missing) == ("Degraded", "CrashLoop", 1)


def test_a_model_that_has_gone_is_forgotten() -> None:
    seen = phases()
    seen.see(body("Ready"))
    seen.keep([])
    assert not seen.states()
