"""One real cluster for all end-to-end tests: real kubelet, real images, real S3 server.

A missing tool or a step that fails is an error of the tests, never a skip.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo import checkpoints, scenario
from demo.clusters import DevCluster, client_tools
from demo.console import Console
from demo.kubectl import Kubectl
from tests import slots
from tests.e2e.world import World


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The cluster with operator, S3 server and both checkpoints in it."""
    provider = DevCluster(slot=slots.END_TO_END)
    console = Console(steps=5)
    with console.step("Kubernetes"):
        provider.up(console.say)
    try:
        kubectl = Kubectl(*client_tools(), provider.kubeconfig())
        scenario.wait_for_api(kubectl)
        with console.step("images"):
            references = scenario.provide_images(provider, console)
        with console.step("S3 server"):
            scenario.start_store(kubectl, references)
        with console.step("operator"):
            scenario.install_operator(kubectl, references)
        with console.step("checkpoints"):
            scenario.upload_checkpoints(kubectl, console)
        credentials = scenario.store_credentials()
        with kubectl.forward(scenario.DEMO_NAMESPACE, "service/seaweedfs", 8333) as port:
            store = checkpoints.Store(
                f"http://127.0.0.1:{port}",
                credentials["AWS_ACCESS_KEY_ID"],
                credentials["AWS_SECRET_ACCESS_KEY"],
            )
            yield World(kubectl, store)
    finally:
        provider.down(console.say)
