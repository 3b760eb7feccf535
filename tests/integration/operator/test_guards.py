"""NetworkPolicies and PodDisruptionBudgets on a real API server."""

from __future__ import annotations

import pytest

from tests.integration.operator.world import (
    BUDGETS,
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


def test_models_of_several_groups_are_served_whether_or_not_the_server_has_budgets(
    admin: Admin, kubelet: PaperKubelet, operator: OperatorProcess
) -> None:
    admin.apply_model("minilm", replicas=2)
    kubelet.finish_job(kubelet.job("minilm"), summary())
    for group in kubelet.sets("minilm", 2):
        kubelet.start_group(group)
    admin.wait_for_condition("minilm", "Ready", "True")
    if admin.has_budgets():
        made = eventually(lambda: admin.list(BUDGETS), "the budget is there")
        assert [each["metadata"]["name"] for each in made] == ["minilm"]
        assert made[0]["spec"]["maxUnavailable"] == 2  # one group of two ranks
    else:
        assert "poddisruptionbudgets" not in operator.get("/metrics")
