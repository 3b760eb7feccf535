"""The chart upgrades from its earlier release, with models in the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.integration.operator.conftest import CHART, helm_run, kubeconfig_of
from tests.integration.operator.world import (
    MODELS,
    Admin,
    OperatorProcess,
    PaperKubelet,
    summary,
)

pytestmark = pytest.mark.integration

EARLIER = Path(__file__).parent / "earlier" / "shardedmodel-operator-0.1.0.tgz"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
SET = ("--set", "runtimeImage=runtime:test", "--set", "crds.install=false")
SWITCHES = ("replicas=2", "networkPolicy.enabled=true", "metrics.service.enabled=true")
"""What the earlier chart did not have, of what this API server serves."""


def test_an_upgrade_keeps_models_and_brings_the_lease(
    admin: Admin, kubelet: PaperKubelet, operator_kubeconfig: Path, tmp_path: Path
) -> None:
    where = ("--namespace", admin.namespace)
    namespaces = ("--set", f"namespaces={{{admin.namespace}}}")
    helm_run(admin.kubeconfig, "install", "up", str(EARLIER), *where, *SET, *namespaces)
    flags = ("--namespace", admin.namespace)
    # In the place of the earlier release's own operator, which asked for fewer rights.
    with OperatorProcess(operator_kubeconfig, tmp_path / "before", *flags):
        admin.apply_model("minilm")
        kubelet.finish_job(kubelet.job("minilm"), summary())
        kubelet.start_group(kubelet.sets("minilm")[0])
        admin.wait_for_condition("minilm", "Ready", "True")
    before = admin.get(MODELS, "minilm")
    switches = [part for switch in SWITCHES for part in ("--set", switch)]
    helm_run(admin.kubeconfig, "upgrade", "up", str(CHART), *where, *SET, *namespaces, *switches)
    deployment = admin.get(DEPLOYMENTS, "up")["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (2, "RollingUpdate")
    account = kubeconfig_of(admin, admin.namespace, "up", tmp_path / "kubeconfig")
    lease = {"SHARDEDMODEL_LEASE": f"{admin.namespace}/up"}
    with OperatorProcess(account, tmp_path / "after", *flags, variables=lease):
        admin.apply_model("minilm", workers={"backend": "gloo", "image": "runtime:2"})
        kubelet.sets("minilm", 2)
    after = admin.get(MODELS, "minilm")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    helm_run(admin.kubeconfig, "rollback", "up", "1", *where)
    assert admin.get(DEPLOYMENTS, "up")["spec"]["strategy"]["type"] == "Recreate"
    helm_run(admin.kubeconfig, "uninstall", "up", *where)


def test_an_upgrade_takes_the_definition_along_and_an_uninstall_leaves_it(admin: Admin) -> None:
    """On paper: the one definition of this API server belongs to the other tests' release."""
    upgraded = helm_run(admin.kubeconfig, "template", "up", str(CHART))
    kinds = {body["kind"]: body for body in yaml.safe_load_all(upgraded) if body}
    definition = kinds["CustomResourceDefinition"]
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_api_server_takes_everything_that_can_be_switched_on(admin: Admin) -> None:
    values = (*SWITCHES, "metrics.dashboard.enabled=true", f"namespaces={{{admin.namespace}}}")
    switches = [part for value in values for part in ("--set", value)]
    where = ("--namespace", admin.namespace)
    helm_run(admin.kubeconfig, "install", "all", str(CHART), *where, *SET, *switches)
    helm_run(admin.kubeconfig, "uninstall", "all", *where)
