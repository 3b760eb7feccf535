"""The cluster that all lives share, and what each of them is given on it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import scenario
from demo.clusters import client_tools
from demo.kubectl import Kubectl
from shardedmodel_operator.cluster.resources import MODELS
from tests.crashmatrix.executioner import Executioner
from tests.crashmatrix.lane import PORT, RUNTIME_IMAGE, SECRET, STORE, Lane, until
from tests.crashmatrix.proxy import Loop, Proxy
from tests.crashmatrix.store import LaneStore
from tests.devcluster import Cluster, build_image
from tests.integration.operator.world import Admin

TOKEN_SECONDS = 12 * 3600
"""Longer than the whole matrix."""
ACCOUNT = "/api/v1/namespaces/{}/serviceaccounts/shardedmodel-operator/token"
READY_SECONDS = 30.0
"""Until a new namespace has its ServiceAccount: a controller's work of a moment."""

say = print


@dataclass(frozen=True)
class World:
    """A cluster with the resource, the runtime's image and the operator's rights; no operator."""

    cluster: Cluster
    loop: Loop
    token: str
    """Of the chart's ServiceAccount."""
    logs: Path

    @contextmanager
    def lane(self, namespace: str, store: LaneStore) -> Iterator[Lane]:
        """Make a namespace with what a model needs, and an operator; both go with the context."""
        with ExitStack() as stack:
            admin = Admin(self.cluster.kubeconfig, namespace)
            stack.callback(admin.close)
            self._furnish(admin, store)
            stack.callback(_leave, admin)
            executioner = Executioner(kill=lambda: made.kill_operator())
            server = self._server()
            authority = base64.b64decode(server["certificate-authority-data"]).decode()
            proxy = Proxy(self.loop, server["server"], executioner, trusts=authority)
            port = stack.enter_context(proxy).port
            kubeconfig = self.logs / f"{namespace}.kubeconfig"
            self._write_kubeconfig(kubeconfig, f"http://127.0.0.1:{port}")
            made = Lane(admin, store, executioner, kubeconfig, self.logs)
            stack.callback(made.kill_operator)
            made.start_operator()
            yield made

    def _server(self) -> dict[str, Any]:
        document = json.loads(self.cluster.kubeconfig.read_text())
        server: dict[str, Any] = document["clusters"][0]["cluster"]
        return server

    def _write_kubeconfig(self, file: Path, server: str) -> None:
        document = json.loads(self.cluster.kubeconfig.read_text())
        document["clusters"][0]["cluster"] = {"server": server}
        document["users"][0]["user"] = {"token": self.token}
        file.write_text(json.dumps(document))
        file.chmod(0o600)

    def _furnish(self, admin: Admin, store: LaneStore) -> None:
        """Make the namespace, and in it the store's Secret and name."""
        admin.create("/api/v1/namespaces", {"metadata": {"name": admin.namespace}})
        admin.create(
            "/api/v1/namespaces/{}/secrets",
            {"metadata": {"name": SECRET}, "stringData": store.server.environment},
        )
        ports = [{"port": PORT, "targetPort": store.port, "protocol": "TCP"}]
        admin.create(
            "/api/v1/namespaces/{}/services",
            {"metadata": {"name": STORE}, "spec": {"ports": ports}},
        )
        address = {"ip": self.cluster.host_address}
        subset = {"addresses": [address], "ports": [{"port": store.port, "protocol": "TCP"}]}
        admin.create(
            "/api/v1/namespaces/{}/endpoints",
            {"metadata": {"name": STORE}, "subsets": [subset]},
        )
        accounts = "/api/v1/namespaces/{}/serviceaccounts"
        until(
            # Pods are refused before it is there.
            lambda: bool(admin.get(accounts, "default")),
            lambda: f"{admin.namespace} has a ServiceAccount",
            READY_SECONDS,
        )


@contextmanager
def world(slot: int, logs: Path) -> Iterator[World]:
    """Bring the cluster up, and take it away afterwards."""
    cluster = Cluster(slot)
    with cluster.running(progress=say), Loop() as loop:
        image = scenario.RUNTIME_IMAGE
        assert image.tag == RUNTIME_IMAGE
        cluster.load_image(build_image(image.dockerfile, image.context, image.tag, progress=say))
        _install_rights(Kubectl(*client_tools(), cluster.kubeconfig))
        admin = Admin(cluster.kubeconfig)
        try:
            yield World(cluster, loop, _token(admin), logs)
        finally:
            admin.close()


def _install_rights(kubectl: Kubectl) -> None:
    """Install the chart, and let no operator of it run: each life brings its own."""
    scenario.wait_for_api(kubectl)
    kubectl.helm(
        *("upgrade", "--install", "shardedmodel-operator"),
        str(scenario.ROOT / "charts" / "shardedmodel-operator"),
        *("--namespace", scenario.SYSTEM_NAMESPACE, "--create-namespace"),
    )
    kubectl.run(*("scale", "deployment", "--all", "--replicas=0", "-n", scenario.SYSTEM_NAMESPACE))


def _token(admin: Admin) -> str:
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    path = ACCOUNT.replace("{}", scenario.SYSTEM_NAMESPACE)
    return str(admin.request("POST", path, request)["status"]["token"])


def _leave(admin: Admin) -> None:
    """Let the namespace go, also with a model in it that waits for an operator."""
    model = MODELS.path(admin.namespace)
    for body in admin.list(model):
        admin.merge(model, body["metadata"]["name"], {"metadata": {"finalizers": None}})
    admin.request("DELETE", f"/api/v1/namespaces/{admin.namespace}")
