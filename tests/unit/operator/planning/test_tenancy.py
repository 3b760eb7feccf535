"""Whose identity pods have, whose images, and that a template reaches its namespace's admission."""

from __future__ import annotations

from typing import Any

import pytest

from shardedmodel_operator.api.template import RESERVED_PREFIX
from tests.builders.operator import ModelBuilder
from tests.unit.operator.planning.steps import ready

DIGEST = f"registry.example/runtime@sha256:{'0' * 64}"
GREEDY: dict[str, Any] = {
    "hostPID": True,
    "hostIPC": True,
    "serviceAccountName": "admin",
    "automountServiceAccountToken": True,
    "priorityClassName": "system-node-critical",
    "securityContext": {"runAsUser": 0, "runAsNonRoot": False},
    "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
    "containers": [{"name": "rank", "securityContext": {"privileged": True}}],
}
"""All that an admission controller would want to see."""


def pods(template: dict[str, Any], **workers: Any) -> dict[str, dict[str, Any]]:
    """The specs of all pods that a model comes to, by their container."""
    workers |= {"template": {"spec": template}}
    cluster = ready(ModelBuilder().with_retention("Delete").with_workers(**workers))
    made = [*cluster.of_kind("Job"), *cluster.of_kind("StatefulSet")]
    cluster.builder.deleting(cluster.now)
    cluster.settle()
    specs = [each["spec"]["template"]["spec"] for each in (*made, *cluster.of_kind("Job"))]
    return {spec["containers"][0]["name"]: spec for spec in specs}


def test_every_pod_of_a_model_runs_as_its_service_account() -> None:
    found = pods({"serviceAccountName": "llama"})
    assert set(found) == {"shard", "rank", "cleanup"}
    assert {spec["serviceAccountName"] for spec in found.values()} == {"llama"}
    # A cloud's token comes by its own volume; that of the API server stays away.
    assert {spec["automountServiceAccountToken"] for spec in found.values()} == {False}


def test_every_pod_of_a_model_runs_the_image_that_is_named_by_digest() -> None:
    images = {spec["containers"][0]["image"] for spec in pods({}, image=DIGEST).values()}
    assert images == {DIGEST}


def test_another_digest_is_another_revision() -> None:
    cluster = ready(ModelBuilder().with_workers(image=DIGEST))
    before = cluster.model.status.update_revision
    other = DIGEST.replace("0" * 64, "1" * 64)
    cluster.builder.with_workers(image=other).at_generation(2)
    cluster.settle()
    assert cluster.model.status.update_revision != before


def test_admission_sees_what_a_template_asks_for_as_it_is() -> None:
    spec = pods(GREEDY)["rank"]
    plain = {field: value for field, value in GREEDY.items() if isinstance(value, str | bool)}
    assert plain.items() <= spec.items()
    assert spec["securityContext"]["runAsUser"] == 0
    assert GREEDY["volumes"][0] in spec["volumes"]
    assert spec["containers"][0]["securityContext"]["privileged"] is True


def test_jobs_take_nothing_of_it_that_volumes_and_placement_do_not_need() -> None:
    for name, spec in pods(GREEDY).items():
        if name != "rank":
            assert not {"hostPID", "hostIPC"} & spec.keys()
            assert spec["automountServiceAccountToken"] is False
            assert "privileged" not in spec["containers"][0]["securityContext"]


def test_the_operator_makes_no_pods_and_nothing_outside_of_the_models_namespace() -> None:
    cluster = ready(ModelBuilder().with_spec(replicas=2, networkPolicy={}))
    made = [manifest for decided in cluster.plans for manifest in decided.apply]
    assert {manifest["metadata"]["namespace"] for manifest in made} == {"models"}
    assert {manifest["kind"] for manifest in made} == {
        *("Job", "StatefulSet", "Service", "NetworkPolicy", "PodDisruptionBudget")
    }


@pytest.mark.parametrize("field", ["namespace", "name", "ownerReferences", "finalizers"])
def test_a_template_cannot_place_its_pods_elsewhere(field: str) -> None:
    model = ModelBuilder().with_workers(template={"metadata": {field: "x"}}).build()
    assert [str(problem).partition(":")[0] for problem in model.problems] == [
        f"spec.workers.template.metadata.{field}"
    ]


def test_a_template_cannot_pass_its_pods_off_as_another_models() -> None:
    labels = {f"{RESERVED_PREFIX}model": "other"}
    model = ModelBuilder().with_workers(template={"metadata": {"labels": labels}}).build()
    assert model.spec is None
