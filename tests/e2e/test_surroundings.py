"""What the cluster around a model says: the chart's own check, and what lets no pod in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from demo.console import DemoError
from demo.scenario import DEMO_NAMESPACE, SYSTEM_NAMESPACE
from tests.e2e.world import READY_SECONDS, World, manifest

pytestmark = pytest.mark.e2e

REFUSED_SECONDS = 90
"""Pods are missed after 30 s."""
HELM_TEST_SECONDS = 120


POD_SECURITY = (1, 25)
"""Server from which on every cluster holds pods against a namespace's label."""
PRIVILEGED = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "privileged"},
    "spec": {"containers": [{"name": "a", "image": "a", "securityContext": {"privileged": True}}]},
}


@contextmanager
def namespace(world: World, name: str) -> Iterator[str]:
    """A namespace of its own, with the demo's model in it and what that reads its bucket with."""
    world.kubectl.run("create", "namespace", name)
    try:
        secret = world.kubectl.get("secret", "demo-s3", "-n", DEMO_NAMESPACE)
        secret["metadata"] = {"name": "demo-s3"}
        apply(world, name, secret)
        yield name
    finally:
        world.kubectl.run("delete", "namespace", name, "--wait=false")


def apply(world: World, namespace: str, body: dict[str, Any], *arguments: str) -> None:
    text = json.dumps(body)
    world.kubectl.run("apply", "-n", namespace, "-f", "-", *arguments, stdin=text)


def ready(world: World, namespace: str) -> dict[str, Any]:
    """The condition Ready of the model there; empty when it has none."""
    model = world.kubectl.get("shardedmodel", "minilm", "-n", namespace)
    conditions = (model.get("status") or {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Ready"), {})


def is_refused(world: World, namespace: str, pod: dict[str, Any]) -> bool:
    try:
        apply(world, namespace, pod, "--dry-run=server")
    except DemoError as error:
        return "PodSecurity" in str(error)
    return False


def test_the_charts_check_passes_as_a_pod(world: World) -> None:
    arguments = ("test", "shardedmodel-operator", "--namespace", SYSTEM_NAMESPACE, "--logs")
    told = world.kubectl.helm(*arguments, f"--timeout={HELM_TEST_SECONDS}s", timeout=150)
    assert "Phase:          Succeeded" in told


def test_a_quota_that_refuses_pods_is_told_with_its_name_and_the_pods(world: World) -> None:
    with namespace(world, "poor") as poor:
        world.kubectl.run("create", "quota", "team", "-n", poor, "--hard=pods=0")
        apply(world, poor, manifest("minilm"))
        world.until(
            lambda: ready(world, poor).get("reason") == "QuotaExceeded",
            "the quota to be named",
            REFUSED_SECONDS,
            lambda: str(ready(world, poor)),
        )
        (job,) = world.kubectl.get("jobs", "-n", poor)["items"]
        message = ready(world, poor)["message"]
    assert f'pods "{job["metadata"]["name"]}-' in message
    assert "is forbidden: exceeded quota: team, requested: pods=1, used: pods=0" in message


def test_a_model_becomes_ready_where_only_restricted_pods_are_let_in(world: World) -> None:
    with namespace(world, "strict") as strict:
        enforce = "pod-security.kubernetes.io/enforce=restricted"
        world.kubectl.run("label", "namespace", strict, enforce)
        assert is_refused(world, strict, PRIVILEGED) == (world.kubernetes() >= POD_SECURITY)
        apply(world, strict, manifest("minilm"))
        world.until(
            lambda: ready(world, strict).get("status") == "True",
            "the model to be Ready",
            READY_SECONDS,
            lambda: str(ready(world, strict)),
        )
