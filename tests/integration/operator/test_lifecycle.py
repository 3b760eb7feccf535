from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from kubernetes.client import ApiException

from shardedmodel_runtime.report import Failure
from tests.integration.operator.world import (
    EVENTS,
    JOBS,
    MODELS,
    PODS,
    SERVICES,
    SETS,
    Admin,
    OperatorProcess,
    PaperKubelet,
    eventually,
    summary,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

BROKEN = {"backend": "gloo", "template": {"spec": {"restartPolicy": "Never"}}}
"""Workers that every API server takes, and the operator refuses."""


@pytest.fixture(autouse=True)
def _log(operator: OperatorProcess) -> Iterator[None]:
    """Show what the operator logged meanwhile beside a test that fails."""
    before = len(operator.log)
    yield
    print(operator.log[before:])


def make_ready(admin: Admin, kubelet: PaperKubelet, name: str) -> None:
    """Bring a model from nothing to Ready."""
    admin.apply_model(name)
    kubelet.finish_job(kubelet.job(name), summary())
    kubelet.start_group(kubelet.sets(name)[0])
    admin.wait_for_condition(name, "Ready", "True")


def test_a_model_goes_from_apply_to_ready(admin: Admin, kubelet: PaperKubelet) -> None:
    admin.apply_model("minilm")
    kubelet.finish_job(kubelet.job("minilm"), summary())
    admin.wait_for_condition("minilm", "Sharded", "True")
    kubelet.start_group(kubelet.sets("minilm")[0])
    admin.wait_for_condition("minilm", "Ready", "True")
    status = admin.get(MODELS, "minilm")["status"]
    assert (status["phase"], status["readyReplicas"]) == ("Ready", 1)
    assert status["observedGeneration"] == admin.get(MODELS, "minilm")["metadata"]["generation"]
    assert not admin.condition("minilm", "Reconciling")


def test_nothing_is_left_on_the_users_object(admin: Admin, kubelet: PaperKubelet) -> None:
    make_ready(admin, kubelet, "minilm")
    metadata = admin.get(MODELS, "minilm")["metadata"]
    assert "finalizers" not in metadata
    assert "annotations" not in metadata


def test_reconciling_again_writes_nothing(
    admin: Admin, kubelet: PaperKubelet, operator: OperatorProcess
) -> None:
    make_ready(admin, kubelet, "minilm")
    _wait_until_quiet(operator)
    writes, reconciles = operator.writes(), operator.reconciles()
    # A label of the user's is an event like any other, and changes nothing.
    admin.merge(MODELS, "minilm", {"metadata": {"labels": {"team": "a"}}})
    eventually(lambda: operator.reconciles() > reconciles, "another reconciliation")
    _wait_until_quiet(operator)
    assert operator.writes() == writes


def test_a_spec_that_cannot_be_meant_stalls_and_heals(admin: Admin, kubelet: PaperKubelet) -> None:
    admin.apply_model("broken", workers=BROKEN)
    stalled = admin.wait_for_condition("broken", "Stalled", "True")
    assert "spec.workers.template.spec.restartPolicy" in stalled["message"]
    assert admin.condition("broken", "Ready")["status"] == "False"
    assert not [j for j in admin.list(JOBS) if "broken" in j["metadata"]["name"]]
    admin.apply_model("broken")
    kubelet.job("broken")
    eventually(lambda: not admin.condition("broken", "Stalled"), "Stalled is gone")


def test_what_the_schema_cannot_mean_is_refused_by_the_server_or_told_by_the_operator(
    admin: Admin,
) -> None:
    try:
        admin.apply_model("broken", source={"uri": "ftp://models/minilm"})
    except ApiException as error:  # a server that checks CEL rules, from 1.25 on
        told = error.body
    else:
        told = admin.wait_for_condition("broken", "Stalled", "True")["message"]
    assert "spec.source.uri" in told
    assert "s3://bucket/prefix" in told


def test_what_the_server_refuses_is_told_on_the_model(
    admin: Admin, kubelet: PaperKubelet, operator: OperatorProcess
) -> None:
    template = {"spec": {"noSuchField": 1}}
    admin.apply_model("refused", workers={"backend": "gloo", "template": template})
    kubelet.finish_job(kubelet.job("refused"), summary())
    stalled = admin.wait_for_condition("refused", "Stalled", "True", "ObjectRejected")
    assert "noSuchField" in stalled["message"]
    told = eventually(
        lambda: [e["type"] for e in admin.list(EVENTS) if e["reason"] == "ObjectRejected"],
        "the refusal is told as an Event",
    )
    assert told == ["Warning"]
    assert operator.get("/healthz") == "ok\n"


def test_a_failed_job_ends_in_its_own_reason(admin: Admin, kubelet: PaperKubelet) -> None:
    admin.apply_model("missing")
    failure = Failure(reason="NotFound", message="s3://models/minilm: no such bucket")
    kubelet.fail_job(kubelet.job("missing"), failure)
    sharded = admin.wait_for_condition("missing", "Sharded", "False", "NotFound")
    assert "no such bucket" in sharded["message"]


def test_a_broken_model_does_not_disturb_others(admin: Admin, kubelet: PaperKubelet) -> None:
    admin.apply_model("broken", workers=BROKEN)
    make_ready(admin, kubelet, "whole")
    assert admin.condition("broken", "Stalled")["status"] == "True"


def test_a_lost_rank_makes_the_model_unready(admin: Admin, kubelet: PaperKubelet) -> None:
    make_ready(admin, kubelet, "minilm")
    name = kubelet.sets("minilm")[0]["metadata"]["name"]
    admin.request("DELETE", f"{PODS}/{name}-1?gracePeriodSeconds=0")
    admin.wait_for_condition("minilm", "Ready", "False")


def test_a_deleted_service_is_made_again(admin: Admin, kubelet: PaperKubelet) -> None:
    make_ready(admin, kubelet, "minilm")
    uid = admin.get(SERVICES, "minilm")["metadata"]["uid"]
    admin.request("DELETE", f"{SERVICES}/minilm")

    def made_again() -> bool:
        found = [s for s in admin.list(SERVICES) if s["metadata"]["name"] == "minilm"]
        return bool(found) and found[0]["metadata"]["uid"] != uid

    eventually(made_again, "the Service is there again")


def test_a_users_service_of_the_same_name_is_not_taken_over(
    admin: Admin, kubelet: PaperKubelet
) -> None:
    theirs = {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"}}
    admin.create(SERVICES, {**service, "spec": theirs})
    admin.apply_model("taken")
    kubelet.finish_job(kubelet.job("taken"), summary())
    kubelet.start_group(kubelet.sets("taken")[0])
    stalled = admin.wait_for_condition("taken", "Stalled", "True", "ObjectRejected")
    assert "Service taken exists already" in stalled["message"]
    assert admin.get(SERVICES, "taken")["spec"]["selector"] == {"app": "theirs"}
    admin.request("DELETE", f"{SERVICES}/taken")
    admin.wait_for_condition("taken", "Ready", "True")


def test_everything_belongs_to_the_model(admin: Admin, kubelet: PaperKubelet) -> None:
    make_ready(admin, kubelet, "minilm")
    uid = admin.get(MODELS, "minilm")["metadata"]["uid"]
    made = [*admin.list(JOBS), *admin.list(SETS), *admin.list(SERVICES)]
    assert len(made) >= 4
    for body in made:
        owners = body["metadata"]["ownerReferences"]
        assert [(owner["uid"], owner["controller"]) for owner in owners] == [(uid, True)]


def test_steps_are_told_as_events(admin: Admin, kubelet: PaperKubelet) -> None:
    make_ready(admin, kubelet, "minilm")

    def told() -> bool:
        return {"ShardingStarted", "Ready"} <= {e["reason"] for e in admin.list(EVENTS)}

    eventually(told, "the steps are told as Events")


def _wait_until_quiet(operator: OperatorProcess) -> None:
    """Wait until no reconciliation happened for a moment."""
    seen = -1
    deadline = time.monotonic() + 10
    while operator.reconciles() != seen and time.monotonic() < deadline:
        seen = operator.reconciles()
        time.sleep(0.3)
