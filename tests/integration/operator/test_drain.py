"""The old revision waits until the Service's addresses are those of the new one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.integration.operator.world import (
    SERVICES,
    SETS,
    Admin,
    Json,
    OperatorProcess,
    PaperKubelet,
    eventually,
    summary,
)

pytestmark = [pytest.mark.integration]

ENDPOINTS = "/api/v1/namespaces/{}/endpoints"


def uid(body: Json) -> str:
    return str(body["metadata"]["uid"])


def addresses(stateful_set: Json) -> Sequence[Json]:
    """What the controller of endpoints, which does not run here, would write of a group."""
    name = stateful_set["metadata"]["name"]
    pods = [f"{name}-{ordinal}" for ordinal in range(stateful_set["spec"]["replicas"])]
    found = [
        # Of a range for documentation: nothing answers there.
        {"ip": f"192.0.2.{index + 1}", "targetRef": {"kind": "Pod", "name": pod}}
        for index, pod in enumerate(pods)
    ]
    return [{"addresses": found, "ports": [{"port": 8080}]}]


def test_the_old_groups_stay_until_the_service_has_left_them(
    admin: Admin, kubelet: PaperKubelet, operator: OperatorProcess
) -> None:
    admin.apply_model("minilm")
    kubelet.finish_job(kubelet.job("minilm"), summary())
    (old,) = kubelet.sets("minilm")
    kubelet.start_group(old)
    admin.wait_for_condition("minilm", "Ready", "True")
    admin.create(ENDPOINTS, {"metadata": {"name": "minilm"}, "subsets": addresses(old)})

    admin.apply_model("minilm", workers={"backend": "gloo", "image": "runtime:2"})
    (new,) = (s for s in kubelet.sets("minilm", 2) if uid(s) != uid(old))
    kubelet.start_group(new)
    revision = new["metadata"]["labels"]["shardedmodel.dev/revision"]
    eventually(
        lambda: revision in admin.get(SERVICES, "minilm")["spec"]["selector"].values(),
        "the Service is switched",
    )
    seen = operator.reconciles()
    eventually(lambda: operator.reconciles() >= seen + 2, "the operator looked again, twice")
    assert len(admin.list(SETS)) == 2

    admin.merge(ENDPOINTS, "minilm", {"subsets": addresses(new)})
    assert [uid(s) for s in kubelet.sets("minilm", 1)] == [uid(new)]
