"""Pods that the API server refuses: the model says by what, with the server's own sentence.

Admission is the real server's. The controllers are of paper: they try to create a pod, and write
what they are told into an Event, as those of Kubernetes do.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from tests.integration.operator.world import (
    EVENTS,
    PODS,
    Admin,
    Json,
    OperatorProcess,
    PaperKubelet,
    eventually,
    summary,
)

pytestmark = pytest.mark.integration

QUOTAS = "/api/v1/namespaces/{}/resourcequotas"
MISSED_SECONDS = 60.0
"""Pods are missed after 30 s."""


def forbid_pods(admin: Admin) -> None:
    """A quota of no pods; what is used is the controller-manager's to say, which is not there."""
    body = {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}}
    admin.create(QUOTAS, body)
    status = {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}
    admin.merge(QUOTAS, "team/status", status)


def try_to_create_a_pod(admin: Admin, kind: str, owner: Json, name: str) -> str:
    """Do what a controller does; gives the name of the pod that was refused."""
    template = owner["spec"]["template"]
    pod = {"metadata": {**template["metadata"], "name": name}, "spec": template["spec"]}

    def refusal() -> str | None:
        # The quota's admission reads quotas from a cache of its own.
        try:
            admin.create(PODS, pod)
        except ApiException as e:
            return str(json.loads(e.body)["message"])
        admin.request("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0")
        return None

    text = eventually(refusal, "the pod is refused")
    prefix = f"create Pod {name} in StatefulSet {owner['metadata']['name']} failed error"
    tell(admin, kind, owner, f"{prefix if kind == 'StatefulSet' else 'Error creating'}: {text}")
    return name


def tell(admin: Admin, kind: str, owner: Json, message: str) -> None:
    metadata = owner["metadata"]
    involved = {"kind": kind, "name": metadata["name"], "namespace": admin.namespace}
    body: dict[str, Any] = {
        "metadata": {"name": f"{metadata['name']}.refused"},
        "involvedObject": {**involved, "uid": metadata["uid"]},
        "type": "Warning",
        "reason": "FailedCreate",
        "message": message,
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    admin.create(EVENTS, body)


def ready_condition(admin: Admin, reason: str) -> Json:
    """The condition Ready, once it has this reason."""

    def found() -> Json | None:
        condition = admin.condition("minilm", "Ready")
        return condition if condition and condition["reason"] == reason else None

    return eventually(found, f"Ready has the reason {reason}", MISSED_SECONDS)


def test_a_quota_that_refuses_the_pods_of_a_job_is_named(
    operator: OperatorProcess, admin: Admin, kubelet: PaperKubelet
) -> None:
    forbid_pods(admin)
    admin.apply_model("minilm")
    job = kubelet.job("minilm")
    pod = try_to_create_a_pod(admin, "Job", job, f"{job['metadata']['name']}-x7k2p")
    message = ready_condition(admin, "QuotaExceeded")["message"]
    assert f'pods "{pod}" is forbidden: exceeded quota: team, requested: pods=1' in message


def test_a_quota_that_refuses_the_pods_of_a_group_is_named(
    operator: OperatorProcess, admin: Admin, kubelet: PaperKubelet
) -> None:
    admin.apply_model("minilm")
    kubelet.finish_job(kubelet.job("minilm"), summary())
    (group,) = kubelet.sets("minilm")
    forbid_pods(admin)
    pod = try_to_create_a_pod(admin, "StatefulSet", group, f"{group['metadata']['name']}-0")
    message = ready_condition(admin, "QuotaExceeded")["message"]
    assert f'pods "{pod}" is forbidden: exceeded quota: team, requested: pods=1' in message
    warnings = [e for e in admin.list(EVENTS) if e["reason"] == "QuotaExceeded"]
    assert [event["involvedObject"]["kind"] for event in warnings] == ["ShardedModel"]
