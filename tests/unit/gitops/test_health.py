"""Argo CD's health check agrees with kstatus on every status that the planner can emit."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.status import Phase
from tests.kstatus_rules import flux_complaints, kstatus
from tests.simulated_cluster import SimulatedCluster
from tests.unit.gitops.argocd import FOLDER, ROOT, SCRIPT, health
from tests.unit.operator.planning.test_plan_properties import Deed, histories

CASES = yaml.safe_load((FOLDER / "health_test.yaml").read_text())["tests"]
WORDS = {"InProgress": "Progressing", "Failed": "Degraded", "Current": "Healthy"}
"""kstatus' verdicts as Argo CD calls them."""


def body(case: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / case["inputPath"]).read_text())
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["inputPath"])
def test_a_case_of_the_test_data_is_judged_as_it_says(case: Any) -> None:
    assert health(body(case))._asdict() == case["healthStatus"]


def test_all_test_data_is_tested() -> None:
    files = {f"testdata/{file.name}" for file in (FOLDER / "testdata").iterdir()}
    assert files == {case["inputPath"] for case in CASES}


def test_the_test_data_has_every_health_that_there_is() -> None:
    statuses = {case["healthStatus"]["status"] for case in CASES}
    assert statuses == {"Progressing", "Degraded", "Healthy", "Suspended"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["inputPath"])
def test_the_test_data_is_what_the_operator_writes(case: Any) -> None:
    found = body(case)
    found["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    status = ShardedModel.from_object(found).status
    assert status.phase is None or status.phase in get_args(Phase)
    if status.observed_generation == found["metadata"]["generation"]:
        assert flux_complaints(status, status.observed_generation) == []


@settings(max_examples=60, deadline=None)
@given(histories)
def test_every_status_is_judged_as_kstatus_does(history: list[Deed]) -> None:
    cluster = SimulatedCluster()
    for deed in history:
        deed(cluster)
        # Before the operator looks, and after each of its steps.
        agree(cluster)
        for _ in range(3):
            cluster.step()
            agree(cluster)


def agree(cluster: SimulatedCluster) -> None:
    model = cluster.model
    verdict = WORDS[kstatus(model.status, model.generation)]
    judged = health(cluster.builder.body)
    if judged.status == "Suspended":
        assert (verdict, model.status.phase) == ("Progressing", "Suspended")
    else:
        assert judged.status == verdict
    assert judged.message


@pytest.mark.parametrize("status", [None, {}, {"observedGeneration": 1}])
def test_an_object_that_nobody_looked_at_is_not_healthy(status: Any) -> None:
    found = {"metadata": {"generation": 1}, "status": status}
    assert health(found).status == "Progressing"


def test_the_config_map_has_the_same_script() -> None:
    config = yaml.safe_load((ROOT / "docs/gitops/argocd/argocd-cm.yaml").read_text())
    (script,) = config["data"].values()
    assert script == SCRIPT
