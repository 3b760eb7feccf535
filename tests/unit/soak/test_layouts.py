from __future__ import annotations

from typing import Any

from tests.soak.layouts import Folder, History, missing, unneeded

WHOLE, PARTIAL = Folder(3, complete=True), Folder(2, complete=False)


def model(uid: str, layout: str) -> dict[str, Any]:
    return {
        "metadata": {"name": uid, "uid": uid},
        "spec": {"storage": {"uri": "s3://shards/passing"}},
        "status": {"sharding": {"layoutHash": layout}},
    }


def history(*looks: dict[str, Any]) -> History:
    seen = History()
    for look in looks:
        seen.look([look])
    return seen


def test_a_layout_that_a_model_has_is_needed() -> None:
    there = [model("a", "one")]
    assert list(unneeded(there, history(*there), [], ["one"])) == []


def test_a_layout_of_a_model_that_went_is_found() -> None:
    found = list(unneeded([], history(model("a", "one")), [], ["one"]))
    assert found == ["layout one is in the bucket, and nobody needs it"]


def test_a_layout_of_a_former_spec_stays() -> None:
    seen = history(model("a", "one"), model("a", "two"))
    assert list(unneeded([], seen, [], ["one"])) == []


def test_a_layout_of_a_spec_that_was_changed_before_the_model_went_stays() -> None:
    seen = history(model("a", "one"), model("a", ""))
    assert list(unneeded([], seen, [], ["one"])) == []


def test_a_layout_that_was_returned_to_goes_with_its_model() -> None:
    seen = history(model("a", "one"), model("a", "two"), model("a", "one"))
    assert list(unneeded([], seen, [], ["one"])) != []


def test_a_layout_of_which_an_event_tells_stays() -> None:
    told = {"reason": "LayoutKept", "message": "s3://shards/passing/one: b uses it"}
    assert list(unneeded([], history(model("a", "one")), [told], ["one"])) == []


def test_a_layout_that_nobody_ever_had_is_found() -> None:
    assert list(unneeded([], History(), [], ["stray"])) != []


def test_a_layout_that_is_had_must_be_there_whole() -> None:
    there = [model("a", "one")]
    assert list(missing(there, "passing", {"one": WHOLE})) == []
    assert list(missing(there, "passing", {"one": PARTIAL})) != []
    assert list(missing(there, "passing", {})) != []


def test_layouts_of_another_folder_are_not_looked_for() -> None:
    assert list(missing([model("a", "one")], "lasting", {})) == []
