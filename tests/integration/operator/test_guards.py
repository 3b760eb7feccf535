"""NetworkPolicies and PodDisruptionBudgets on a real API server, which has no ``policy/v1``."""

from __future__ import annotations

import pytest

from tests.integration.operator.world import (
    JOBS,
    MODELS,
    POLICIES,
    Admin,
    OperatorProcess,
    PaperKubelet,
    eventually,
    summary,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

CLIENTS = [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]
BUDGETS = "poddisruptionbudgets"


def names(admin: Admin) -> list[str]:
    return [policy["metadata"]["name"] for policy in admin.list(POLICIES)]


def test_a_model_gets_the_policies_that_it_asks_for_and_they_go_with_the_field(
    admin: Admin, kubelet: PaperKubelet
) -> None:
    egress = [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]
    admin.apply_model("minilm", networkPolicy={"clients": CLIENTS, "egress": egress})
    kubelet.job("minilm")
    made = admin.list(POLICIES)
    uid = admin.get(MODELS, "minilm")["metadata"]["uid"]
    assert [policy["metadata"]["name"] for policy in made] == ["minilm-jobs", "minilm-ranks"]
    assert {policy["metadata"]["ownerReferences"][0]["uid"] for policy in made} == {uid}
    assert all(CLIENTS[0] in policy["spec"]["ingress"][-1]["from"] for policy in made)
    admin.apply_model("minilm")
    eventually(lambda: not names(admin), "the policies are gone")


def test_a_policy_that_was_deleted_is_made_again(admin: Admin, kubelet: PaperKubelet) -> None:
    admin.apply_model("minilm", networkPolicy={})
    kubelet.job("minilm")
    admin.request("DELETE", f"{POLICIES}/minilm-ranks")
    eventually(lambda: "minilm-ranks" in names(admin), "the policy is there again")


def test_nothing_starts_while_the_server_refuses_a_policy(
    admin: Admin, kubelet: PaperKubelet
) -> None:
    admin.apply_model("minilm", networkPolicy={"clients": [{"ipBlock": {"cidr": "everywhere"}}]})
    stalled = admin.wait_for_condition("minilm", "Stalled", "True", "ObjectRejected")
    assert "cidr" in stalled["message"]
    assert admin.list(JOBS) == []
    admin.apply_model("minilm", networkPolicy={"clients": CLIENTS})
    kubelet.job("minilm")


def test_a_server_without_the_api_of_budgets_serves_models_of_several_groups(
    admin: Admin, kubelet: PaperKubelet, operator: OperatorProcess
) -> None:
    served = admin.request("GET", "/apis")["groups"]
    (policy,) = (group for group in served if group["name"] == "policy")
    assert [each["version"] for each in policy["versions"]] == ["v1beta1"]
    admin.apply_model("minilm", replicas=2)
    kubelet.finish_job(kubelet.job("minilm"), summary())
    for group in kubelet.sets("minilm", 2):
        kubelet.start_group(group)
    admin.wait_for_condition("minilm", "Ready", "True")
    assert BUDGETS not in operator.get("/metrics")
