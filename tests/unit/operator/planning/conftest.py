"""Every status that a test of the planner emits must be one that GitOps tools read right."""

from __future__ import annotations

import importlib
from datetime import datetime

import pytest

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.status import ShardedModelStatus
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_operator.planning.result import Plan
from shardedmodel_operator.planning.settings import PlanSettings
from tests.kstatus_rules import flux_complaints, kstatus

ALWAYS_PRESENT = {"Ready", "Available", "Sharded", "Loaded", "GroupFormed"}


def check_status(model: ShardedModel, decided: Plan) -> None:
    """Hold one emitted status against the rules."""
    status = decided.status
    if model.deleting:
        return
    assert flux_complaints(status, model.generation) == []
    kinds = [c.type for c in status.conditions]
    assert set(kinds) >= ALWAYS_PRESENT
    assert len(kinds) == len(set(kinds))
    assert (kstatus(status, model.generation) == "Current") == status.holds("Ready")
    assert (kstatus(status, model.generation) == "Failed") == status.holds("Stalled")
    assert ShardedModelStatus.model_validate(status.to_object()) == status


@pytest.fixture(autouse=True)
def _every_status_obeys_kstatus_and_flux(monkeypatch: pytest.MonkeyPatch) -> None:
    plan_module = importlib.import_module("shardedmodel_operator.planning.plan")
    original = plan_module.plan

    def checked(
        model: ShardedModel, observed: Observed, settings: PlanSettings, now: datetime
    ) -> Plan:
        decided: Plan = original(model, observed, settings, now)
        check_status(model, decided)
        return decided

    simulated = importlib.import_module("tests.simulated_cluster")
    monkeypatch.setattr(simulated, "plan", checked)
