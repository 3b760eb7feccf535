from __future__ import annotations

import pytest

from tests.soak.choices import FLAWS_OF_PODS, Choice, manifest
from tests.soak.script import OUTAGE_SHARE, Action, Kind, Script, draw
from tests.unit.soak.builders import accepted

SEEDS = range(20)
OUTAGES = (Kind.KILL_OPERATOR, Kind.KILL_STORE)


@pytest.fixture(params=SEEDS)
def script(request: pytest.FixtureRequest) -> Script:
    seed: int = request.param
    return draw(seed, models=10, seconds=900)


def test_the_same_seed_draws_the_same_script() -> None:
    assert draw(7, 10, 900) == draw(7, 10, 900)


def test_another_seed_draws_another_script() -> None:
    assert draw(7, 10, 900).actions != draw(8, 10, 900).actions


def test_actions_come_in_their_order_and_begin_in_time(script: Script) -> None:
    times = [action.at for action in script.actions]
    assert times == sorted(times)
    changes = [a.at for a in script.actions if a.choice is not None]
    assert 0 <= min(changes) <= max(changes) < script.seconds


def test_every_kind_of_action_is_drawn_in_a_quarter_of_an_hour() -> None:
    drawn = {action.kind for seed in SEEDS for action in draw(seed, 10, 900).actions}
    assert drawn == set(Kind)


def test_only_a_model_that_is_absent_is_applied_and_only_one_that_is_there_is_changed(
    script: Script,
) -> None:
    there: set[str] = set()
    for action in script.actions:
        match action.kind:
            case Kind.APPLY:
                assert action.model not in there, action
                there.add(action.model)
            case Kind.EDIT | Kind.SCALE | Kind.RECREATE:
                assert action.model in there, action
            case Kind.DELETE:
                assert action.model in there, action
                there.remove(action.model)


def test_an_edit_or_a_scale_asks_for_something_else(script: Script) -> None:
    known: dict[str, Choice] = {}
    for action in script.actions:
        if action.kind in (Kind.EDIT, Kind.SCALE):
            assert action.choice != known[action.model], action
        if action.choice is not None:
            known[action.model] = action.choice


def test_a_scale_changes_nothing_but_the_number_of_groups(script: Script) -> None:
    known: dict[str, Choice] = {}
    for action in script.actions:
        if action.choice is None:
            continue
        if action.kind is Kind.SCALE:
            now, before = (manifest("m", c)["spec"] for c in (action.choice, known[action.model]))
            assert now | {"replicas": 0} == before | {"replicas": 0}
        known[action.model] = action.choice


def test_what_everybody_needs_is_left_alone_at_the_end(script: Script) -> None:
    outages = [action.at for action in script.actions if action.kind in OUTAGES]
    assert all(at < script.seconds * OUTAGE_SHARE for at in outages)


def test_a_layout_that_is_to_go_can_be_deleted(script: Script) -> None:
    choices = [action.choice for action in script.actions if action.choice is not None]
    assert not any(choice.passing and choice.flaw in FLAWS_OF_PODS for choice in choices)


def test_every_spec_is_one_that_the_operator_accepts(script: Script) -> None:
    specs = [manifest(a.model, a.choice) for a in script.actions if a.choice is not None]
    assert [problem for spec in specs for problem in accepted(spec).problems] == []


def test_what_is_wanted_is_what_was_asked_for_last() -> None:
    first, second = Choice(), Choice(tensor=2)
    script = Script(
        seed=0,
        seconds=9,
        models=("a", "b"),
        actions=(
            Action(1, Kind.APPLY, "a", first),
            Action(2, Kind.APPLY, "b", first),
            Action(3, Kind.EDIT, "a", second),
            Action(4, Kind.KILL_RANK, "a"),
            Action(5, Kind.DELETE, "b"),
        ),
    )
    assert script.wanted == {"a": second}
