from __future__ import annotations

from typing import Any

from demo.timeline import as_table, seconds_to_ready, timeline


def at(second: int) -> str:
    return f"2026-01-01T00:00:{second:02d}Z"


def created(second: int, **status: Any) -> dict[str, Any]:
    return {"metadata": {"creationTimestamp": at(second)}, "status": status}


def ready(second: int) -> list[dict[str, str]]:
    return [{"type": "Ready", "status": "True", "lastTransitionTime": at(second)}]


def running(second: int, **status: Any) -> dict[str, Any]:
    started = {"state": {"running": {"startedAt": at(second)}}}
    return created(second, containerStatuses=[started], **status)


def test_the_phases_add_up_to_the_time_from_apply_to_ready() -> None:
    model = created(0, conditions=ready(20))
    spans = timeline(
        model,
        created(1, completionTime=at(9)),
        [running(3)],
        [created(10)],
        [running(12, conditions=ready(17)), running(13, conditions=ready(19))],
    )
    assert [span.seconds for span in spans] == [1, 2, 6, 1, 3, 6, 1]
    assert sum(span.seconds for span in spans) == seconds_to_ready(model) == 20


def test_a_phase_that_has_not_ended_is_left_out() -> None:
    spans = timeline(created(0), created(1), [], [], [])
    assert [span.name for span in spans] == ["operator sees it, creates the Job"]


def test_a_model_that_is_not_ready_has_no_time_to_ready() -> None:
    assert seconds_to_ready(created(0)) is None


def test_the_table_has_a_line_for_each_phase() -> None:
    spans = timeline(created(0), created(2, completionTime=at(4)), [], [], [])
    assert len(as_table(spans)) == len(spans) == 2
