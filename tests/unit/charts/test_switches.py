"""What can be switched, and that all of it is valid Kubernetes."""

from __future__ import annotations

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from shardedmodel_operator.settings import Settings
from tests.unit.charts.rendering import CRD_KIND, Json, environment, only, rendered

FOREIGN = {CRD_KIND, "ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Kinds that the schemas of Kubernetes do not have: theirs are checked where they are tested."""

EVERYTHING = (
    "replicas=3",
    f"image.digest=sha256:{'0' * 64}",
    "imagePullSecrets[0].name=registry",
    "priorityClassName=system-cluster-critical",
    "nodeSelector.role=infra",
    "tolerations[0].key=infra,tolerations[0].operator=Exists",
    "topologySpreadConstraints[0].maxSkew=1",
    "topologySpreadConstraints[0].topologyKey=zone",
    "topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway",
    "extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=proxy:3128",
    "podLabels.team=infra",
    "podAnnotations.note=x",
    "metrics.service.annotations.note=x",
    "metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.labels.release=prometheus",
    "metrics.podMonitor.enabled=true,metrics.podMonitor.labels.release=prometheus",
    "metrics.prometheusRule.enabled=true,metrics.prometheusRule.labels.release=prometheus",
    "metrics.dashboard.enabled=true,metrics.dashboard.annotations.folder=models",
    "networkPolicy.enabled=true",
    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
)
NOTHING = (
    "crds.install=false",
    "rbac.create=false",
    "serviceAccount.create=false",
    "serviceAccount.name=given",
)
NAMESPACED = ("namespaces={team-a,team-b}",)

CHOICES = {
    "default": (),
    "everything": EVERYTHING,
    "everything-namespaced": (*EVERYTHING, *NAMESPACED),
    "namespaced": NAMESPACED,
    "nothing": NOTHING,
}


def kinds(bodies: list[Json]) -> set[str]:
    return {body["kind"] for body in bodies}


@pytest.mark.parametrize("version", ["1.25.0", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("values", CHOICES.values(), ids=CHOICES.keys())
def test_what_is_rendered_is_valid(values: tuple[str, ...], version: str) -> None:
    for body in rendered(*values, version=version):
        if body["kind"] not in FOREIGN:
            kubernetes_validate.validate(body, version.rpartition(".")[0], strict=True)


@pytest.mark.parametrize("values", CHOICES.values(), ids=CHOICES.keys())
def test_everything_namespaced_says_where_it_belongs(values: tuple[str, ...]) -> None:
    for body in rendered(*values):
        cluster_wide = body["kind"].startswith(("Cluster", CRD_KIND))
        assert ("namespace" in body["metadata"]) is not cluster_wide


def test_by_default_there_is_what_is_needed_and_no_more() -> None:
    assert kinds(rendered()) == {
        *("Deployment", "ServiceAccount", "Role", "RoleBinding", "Pod"),
        *("ClusterRole", "ClusterRoleBinding", CRD_KIND),
    }


def test_everything_can_be_had() -> None:
    assert kinds(rendered(*EVERYTHING)) - kinds(rendered()) == {
        *("Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"),
        *("ServiceMonitor", "PodMonitor", "PrometheusRule"),
    }


def test_what_others_provide_can_be_left_out() -> None:
    assert kinds(rendered(*NOTHING)) == {"Deployment", "Pod"}


def test_a_new_operator_comes_before_the_old_one_goes() -> None:
    spec = only(rendered(), "Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def pod(*values: str) -> Any:
    return only(rendered(*values), "Deployment")["spec"]["template"]["spec"]


def test_several_replicas_are_spread_unless_told_otherwise() -> None:
    assert "affinity" not in pod()
    assert list(pod("replicas=2")["affinity"]) == ["podAntiAffinity"]
    assert list(pod("replicas=2", "affinity.nodeAffinity.x=y")["affinity"]) == ["nodeAffinity"]


def test_a_budget_never_keeps_a_node_from_being_drained() -> None:
    assert "PodDisruptionBudget" not in kinds(rendered())
    budget = only(rendered("replicas=2"), "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


def test_a_server_without_the_api_of_budgets_gets_none() -> None:
    assert "PodDisruptionBudget" not in kinds(rendered("replicas=2", version="1.20.2"))


def test_without_that_api_there_are_no_rights_to_it() -> None:
    for version, there in (("1.20.2", False), ("1.21.0", True)):
        role = only(rendered(version=version), "ClusterRole")
        assert (["poddisruptionbudgets"] in [rule["resources"] for rule in role["rules"]]) is there


def test_budgets_of_models_can_be_switched_off() -> None:
    for value in (True, False):
        container = pod(f"podDisruptionBudget.models={str(value).lower()}")["containers"][0]
        assert Settings.read(environment(container)).pod_disruption_budgets is value


def test_further_variables_come_after_the_settings() -> None:
    container = pod("extraEnv[0].name=HTTPS_PROXY", "extraEnv[0].value=x:1")["containers"][0]
    found = environment(container)
    assert found.pop("HTTPS_PROXY") == "x:1"
    assert Settings.read(found).lease == "system/release"


def test_the_test_of_a_release_checks_what_its_operator_is_told() -> None:
    bodies = rendered(*EVERYTHING)
    check, operator = only(bodies, "Pod"), pod(*EVERYTHING)
    assert check["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,), (other,) = check["spec"]["containers"], operator["containers"]
    assert (container["command"], container["args"]) == (["shardedmodel-operator"], ["check"])
    for field in ("image", "env", "securityContext"):
        assert container[field] == other[field]
    for field in ("serviceAccountName", "securityContext", "imagePullSecrets"):
        assert check["spec"][field] == operator[field]


def test_the_pod_of_the_test_is_not_taken_for_an_operator() -> None:
    bodies = rendered("metrics.service.enabled=true", "replicas=2")
    labels = only(bodies, "Pod")["metadata"]["labels"].items()
    assert not only(bodies, "Service")["spec"]["selector"].items() <= labels


def test_the_network_lets_the_operator_do_its_work_and_no_more() -> None:
    policy = only(rendered("networkPolicy.enabled=true"), "NetworkPolicy")["spec"]
    labels = only(rendered(), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    open_to_all, dns, reports = policy["egress"]
    assert [port["port"] for port in open_to_all["ports"]] == [443, 6443]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert [port["port"] for port in reports["ports"]] == [8080]
    (peer,) = reports["to"]
    assert peer["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/managed-by": "shardedmodel-operator"
    }
