from __future__ import annotations

from datetime import UTC, datetime

from shardedmodel_operator.api.status import Condition, ShardedModelStatus
from shardedmodel_operator.errors import ClusterAccessDenied, ObjectRejected
from shardedmodel_operator.reconciling.refusal import refused

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EARLIER = "2026-01-01T00:00:00Z"


def condition(kind: str, status: str) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason="Before",
        observed_generation=3,
        last_transition_time=EARLIER,
    )


def status(*conditions: Condition) -> ShardedModelStatus:
    return ShardedModelStatus(observed_generation=3, conditions=list(conditions))


PLANNED = status(
    condition("Ready", "True"), condition("Reconciling", "True"), condition("Sharded", "True")
)


def test_a_refused_model_is_stalled_and_not_ready() -> None:
    said = refused(PLANNED, status(), ObjectRejected("spec.x: unknown"), NOW)
    ready, stalled = said.condition("Ready"), said.condition("Stalled")
    assert ready is not None
    assert ready.status == "False"
    assert stalled is not None
    assert stalled.status == "True"
    assert (stalled.reason, stalled.message) == ("ObjectRejected", "spec.x: unknown")


def test_stalled_and_reconciling_are_never_there_together() -> None:
    said = refused(PLANNED, status(), ObjectRejected("no"), NOW)
    assert said.condition("Reconciling") is None


def test_other_conditions_stay_as_planned() -> None:
    said = refused(PLANNED, status(), ObjectRejected("no"), NOW)
    assert said.condition("Sharded") == PLANNED.condition("Sharded")


def test_saying_it_again_changes_nothing() -> None:
    first = refused(PLANNED, status(), ClusterAccessDenied("quota"), NOW)
    second = refused(PLANNED, first, ClusterAccessDenied("quota"), NOW.replace(hour=9))
    assert second == first


def test_a_condition_that_does_not_flip_keeps_its_time() -> None:
    said = refused(PLANNED, status(condition("Ready", "False")), ObjectRejected("no"), NOW)
    ready, stalled = said.condition("Ready"), said.condition("Stalled")
    assert ready is not None
    assert ready.last_transition_time == EARLIER
    assert stalled is not None
    assert stalled.last_transition_time == "2026-01-02T03:04:05Z"


def test_a_long_sentence_is_cut() -> None:
    said = refused(PLANNED, status(), ObjectRejected("x" * 9000), NOW).condition("Stalled")
    assert said is not None
    assert len(said.message) == 1024
