from __future__ import annotations

import json
from collections import Counter

from tests.soak.actor import Tally
from tests.soak.choices import Choice
from tests.soak.memory import MIB, Life
from tests.soak.report import Outcome, as_json, as_markdown
from tests.soak.script import Action, Kind, Script
from tests.unit.soak.builders import ready

CHOICE = Choice(tensor=2, replicas=2)


def outcome(*findings: str) -> Outcome:
    """A soak of ten minutes over one model."""
    samples = [(number * 5.0, 100 * MIB) for number in range(120)]
    return Outcome(
        script=Script(7, 600, ("m",), (Action(1, Kind.APPLY, "m", CHOICE),)),
        tally=Tally(done=Counter({"apply": 1, "kill rank": 3}), missed=Counter({"kill rank": 1})),
        models=[ready(CHOICE).model],
        settle_seconds=12.34,
        findings=findings,
        lives=[Life("operator-0", 1, samples, [(count, 100 * MIB) for count in range(0, 601, 20)])],
        objects={"Pod": 5, "ConfigMap": 0},
        layouts={"passing": 1},
        events=Counter({"Ready": 2}),
    )


def test_the_json_has_the_seed_and_every_count() -> None:
    told = json.loads(json.dumps(as_json(outcome())))
    assert (told["seed"], told["minutes"], told["models"]) == (7, 10, 1)
    assert told["actions"]["kill rank"] == {"done": 3, "nothingThere": 1}
    assert told["objects"] == {"Pod": 5, "ConfigMap": 0}
    assert told["events"] == {"Ready": 2}


def test_the_json_says_what_was_asked_for_and_what_came_of_it() -> None:
    [model] = as_json(outcome())["end"]
    assert (model["name"], model["wanted"]["tensor"], model["reason"]) == ("m", 2, "Ready")


def test_the_json_has_the_memory_of_each_operator_and_its_slope() -> None:
    [operator] = as_json(outcome())["operators"]
    assert (operator["startMiB"], operator["endMiB"]) == (100, 100)
    assert (operator["slopeMiBPerMinute"], operator["slopeKiBPerChange"]) == (0, 0)


def test_the_page_says_how_to_have_the_run_again() -> None:
    page = as_markdown(as_json(outcome()))
    assert 'make soak SOAK_ARGS="--seed 7 --minutes 10"' in page


def test_the_page_names_each_finding_or_says_that_there_is_none() -> None:
    assert "Findings: none." in as_markdown(as_json(outcome()))
    assert "- pod x is left" in as_markdown(as_json(outcome("pod x is left")))


def test_the_page_leaves_out_what_there_is_none_of() -> None:
    page = as_markdown(as_json(outcome()))
    assert "| kill rank | 3 | 1 |" in page
    assert "kill operator" not in page
    assert "Objects at the end: 5 Pod." in page
