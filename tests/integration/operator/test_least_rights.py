"""The chart's rights are enough for a model's whole life, and each of them is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from shardedmodel_runtime.report import Failure
from tests.integration.operator.conftest import CHART, helm_run, kubeconfig_of
from tests.integration.operator.world import (
    BUDGETS,
    JOBS,
    MODELS,
    Admin,
    OperatorProcess,
    PaperKubelet,
    eventually,
    summary,
)

pytestmark = pytest.mark.integration

Right = tuple[str, str]
"""Verb and resource."""


class Release(NamedTuple):
    """A release of the chart, and an operator with its account."""

    operator: OperatorProcess
    kubeconfig: Path
    granted: set[Right]


def granted_by(manifest: str) -> set[Right]:
    return {
        (verb, resource)
        for body in yaml.safe_load_all(manifest)
        if body and body["kind"] in ("Role", "ClusterRole")
        for rule in body["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture(params=["all namespaces", "a list of namespaces"])
def release(request: pytest.FixtureRequest, admin: Admin, tmp_path: Path) -> Iterator[Release]:
    """A release of its own that serves the test's namespace, or all."""
    values = ["--set", "crds.install=false", "--set", "runtimeImage=runtime:test"]
    variables = {"SHARDEDMODEL_LEASE": f"{admin.namespace}/least"}
    if request.param == "a list of namespaces":
        values += ["--set", f"namespaces={{{admin.namespace}}}"]
        variables["SHARDEDMODEL_NAMESPACES"] = admin.namespace
    where = ("--namespace", admin.namespace)
    helm_run(admin.kubeconfig, "install", "least", str(CHART), *where, *values)
    manifest = helm_run(admin.kubeconfig, "get", "manifest", "least", *where)
    kubeconfig = kubeconfig_of(admin, admin.namespace, "least", tmp_path / "kubeconfig")
    with OperatorProcess(kubeconfig, tmp_path / "log", variables=variables) as operator:
        yield Release(operator, kubeconfig, granted_by(manifest))
    helm_run(admin.kubeconfig, "uninstall", "least", *where)


def live(admin: Admin, kubelet: PaperKubelet) -> None:
    """Lead a model through all that happens to one, on all paths that make or delete something."""
    # Without a history, old Jobs go; with retention Delete, the layout goes with the model.
    terms = {
        "rollout": {"revisionHistoryLimit": 0},
        "storage": {"uri": "s3://shards", "retention": "Delete"},
    }
    admin.apply_model("minilm", **terms, networkPolicy={})
    kubelet.fail_job(kubelet.job("minilm"), Failure(reason="Unavailable", message="slow down"))
    kubelet.finish_job(kubelet.job("minilm"), summary())
    (first,) = kubelet.sets("minilm")
    kubelet.start_group(first)
    admin.wait_for_condition("minilm", "Ready", "True")
    grow_and_shrink(admin, kubelet, **terms)
    admin.apply_model("minilm", workers={"backend": "gloo", "image": "runtime:2"}, **terms)
    both = kubelet.sets("minilm", 2)
    name = first["metadata"]["name"]
    (second,) = (each for each in both if each["metadata"]["name"] != name)
    # Nobody makes its pods: the operator looks for the reason.
    eventually(lambda: reason(admin) == "PodsNotCreated" or None, "pods are missed", 60)
    kubelet.start_group(second)
    admin.wait_for_condition("minilm", "Ready", "True")
    kubelet.sets("minilm", 1)
    admin.apply_model("minilm", parallelism={"tensor": 4}, **terms)
    kubelet.finish_job(kubelet.job("minilm"), summary("fedcba9876543210fedc"))
    eventually(lambda: len(admin.list(JOBS)) == 1 or None, "the old Jobs are gone")
    admin.request("DELETE", f"{MODELS}/minilm")


def reason(admin: Admin) -> str:
    return str(admin.condition("minilm", "Ready").get("reason"))


def grow_and_shrink(admin: Admin, kubelet: PaperKubelet, **terms: Any) -> None:
    """Have a second group for a while, and with it a budget where the server has them."""
    admin.apply_model("minilm", replicas=2, **terms)
    for group in kubelet.sets("minilm", 2):
        if group["metadata"]["name"].endswith("-1"):
            kubelet.start_group(group)
    if admin.has_budgets():
        eventually(lambda: admin.list(BUDGETS), "the budget is there")
    admin.apply_model("minilm", **terms)
    kubelet.sets("minilm", 1)
    if admin.has_budgets():
        eventually(lambda: not admin.list(BUDGETS), "the budget is gone")


def calls(operator: OperatorProcess) -> set[tuple[str, str, str]]:
    pattern = r'api_calls_total\{verb="(\w+)",resource="([\w/]+)",code="(\w+)"\}'
    return set(re.findall(pattern, operator.get("/metrics")))


def test_rights_are_enough_and_none_is_too_much(
    release: Release, admin: Admin, kubelet: PaperKubelet
) -> None:
    live(admin, kubelet)
    made = calls(release.operator)
    assert {call for call in made if call[2] in ("401", "403")} == set()
    used = {(verb, resource) for verb, resource, _ in made}
    # An apply that makes an object is a patch which the server lets only those do who may create.
    used |= {("create", resource) for verb, resource in used if verb == "patch"}
    assert release.granted - used == set()
