"""What the cluster around a model says: the chart's own check, and a quota that refuses pods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from demo.scenario import SYSTEM_NAMESPACE
from tests.e2e.world import World, manifest

pytestmark = pytest.mark.e2e

REFUSED_SECONDS = 90
"""Pods are missed after 30 s."""
HELM_TEST_SECONDS = 120


@contextmanager
def namespace_without_pods(world: World, name: str) -> Iterator[str]:
    """A namespace with a quota that no pod fits into."""
    world.kubectl.run("create", "namespace", name)
    try:
        world.kubectl.run("create", "quota", "team", "-n", name, "--hard=pods=0")
        yield name
    finally:
        world.kubectl.run("delete", "namespace", name, "--wait=false")


def test_the_charts_check_passes_as_a_pod(world: World) -> None:
    arguments = ("test", "shardedmodel-operator", "--namespace", SYSTEM_NAMESPACE, "--logs")
    told = world.kubectl.helm(*arguments, f"--timeout={HELM_TEST_SECONDS}s", timeout=150)
    assert "Phase:          Succeeded" in told


def test_a_quota_that_refuses_pods_is_told_with_its_name_and_the_pods(world: World) -> None:
    with namespace_without_pods(world, "poor") as namespace:
        resource = json.dumps(manifest("minilm"))
        world.kubectl.run("apply", "-n", namespace, "-f", "-", stdin=resource)

        def ready() -> dict[str, Any]:
            model = world.kubectl.get("shardedmodel", "minilm", "-n", namespace)
            conditions = (model.get("status") or {}).get("conditions", [])
            return next((c for c in conditions if c["type"] == "Ready"), {})

        world.until(
            lambda: ready().get("reason") == "QuotaExceeded",
            "the quota to be named",
            REFUSED_SECONDS,
            lambda: str(ready()),
        )
        (job,) = world.kubectl.get("jobs", "-n", namespace)["items"]
        message = ready()["message"]
    assert f'pods "{job["metadata"]["name"]}-' in message
    assert "is forbidden: exceeded quota: team, requested: pods=1, used: pods=0" in message
