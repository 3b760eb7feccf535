"""What end-to-end tests do to the cluster, in words of the product."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from demo.checkpoints import Store
from demo.kubectl import Kubectl
from demo.scenario import DEMO_NAMESPACE, EXAMPLES

POLL_SECONDS = 0.5
FAILURE_SECONDS = 60
"""A wrong input must show in the status well before this; beyond it the test gives up."""
READY_SECONDS = 180
FIGURES_SECONDS = 60
"""A few polls of the operator, which a busy node may fail to answer in time."""


def manifest(name: str, base: str = "minilm", **spec: Any) -> dict[str, Any]:
    """The demo's manifest ``base`` under another name, with parts of its spec replaced."""
    resource: dict[str, Any] = yaml.safe_load((EXAMPLES / "demo" / f"{base}.yaml").read_text())
    resource["metadata"]["name"] = name
    for key, value in spec.items():
        if isinstance(value, dict):
            resource["spec"][key] = {**resource["spec"].get(key, {}), **value}
        else:
            resource["spec"][key] = value
    return resource


@dataclass(frozen=True, slots=True)
class World:
    """A cluster with the operator, and the S3 server in it."""

    kubectl: Kubectl
    store: Store

    @contextmanager
    def applied(self, resource: dict[str, Any]) -> Iterator[str]:
        """Apply ``resource``, give its name, and delete it with all its children afterwards."""
        self.apply(resource)
        name = resource["metadata"]["name"]
        try:
            yield name
        finally:
            self.delete(name)

    def apply(self, resource: dict[str, Any]) -> None:
        """``kubectl apply`` of one object."""
        self.kubectl.run("apply", "-n", DEMO_NAMESPACE, "-f", "-", stdin=json.dumps(resource))

    def delete(self, *names: str) -> None:
        """Delete models and wait until their pods are gone, so that the node has room again."""
        options = ("-n", DEMO_NAMESPACE, "--ignore-not-found")
        self.kubectl.run("delete", "shardedmodel", *names, *options)
        what = f"the pods of {', '.join(names)} to be gone"
        self.until(lambda: not any(map(self.pods, names)), what, READY_SECONDS)

    def kubernetes(self) -> tuple[int, int]:
        """Major and minor version of the server."""
        told = json.loads(self.kubectl.run("get", "--raw", "/version"))
        return int(told["major"]), int(told["minor"].rstrip("+"))

    def model(self, name: str) -> dict[str, Any]:
        """The resource as it is now."""
        return self.kubectl.get("shardedmodel", name, "-n", DEMO_NAMESPACE)

    def status(self, name: str) -> dict[str, Any]:
        """Its status."""
        status: dict[str, Any] = self.model(name).get("status", {})
        return status

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """One condition; empty when it is absent."""
        conditions = self.status(name).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    def pods(self, name: str) -> list[dict[str, Any]]:
        """All pods of a model."""
        items: list[dict[str, Any]] = self.kubectl.get(
            "pods", "-n", DEMO_NAMESPACE, "-l", f"shardedmodel.dev/model={name}"
        )["items"]
        return items

    def wait_ready(self, name: str) -> dict[str, Any]:
        """Wait for Ready; returns the status."""
        self.kubectl.run(
            *("wait", "-n", DEMO_NAMESPACE, "--for=condition=Ready", f"shardedmodel/{name}"),
            f"--timeout={READY_SECONDS}s",
            timeout=READY_SECONDS + 10,
        )
        self.until(
            # Readiness is the pods' word; figures follow once reports were pulled.
            lambda: all(rank["seconds"] > 0 for rank in self.status(name)["ranks"]),
            f"{name}'s ranks to tell how they loaded",
            FIGURES_SECONDS,
            lambda: json.dumps(self.status(name)["ranks"]),
        )
        return self.status(name)

    def wait_reason(self, name: str, reason: str) -> dict[str, Any]:
        """Wait until Ready is not True for ``reason``; returns the condition."""

        def not_ready_because() -> bool:
            condition = self.condition(name, "Ready")
            return condition.get("status") != "True" and condition.get("reason") == reason

        self.until(
            not_ready_because,
            f"{name} to be not Ready with reason {reason}",
            FAILURE_SECONDS,
            lambda: json.dumps(self.status(name).get("conditions")),
        )
        return self.condition(name, "Ready")

    def until(
        self,
        done: Callable[[], bool],
        what: str,
        seconds: float,
        detail: Callable[[], str] = str,
    ) -> None:
        """Wait for ``done``.

        Raises:
            AssertionError: it was not so within ``seconds``; says ``what``, and ``detail``.
        """
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}; {detail()}"
            time.sleep(POLL_SECONDS)
