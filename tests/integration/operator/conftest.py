"""A real API server with the chart installed; the operator runs with the chart's rights alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests import slots
from tests.devcluster import Cluster
from tests.devcluster.tools import helm
from tests.integration.operator.world import Admin, OperatorProcess, PaperKubelet

SYSTEM = "shardedmodel-system"
CHART = Path(__file__).parents[3] / "charts" / "shardedmodel-operator"

_numbers = count()


@pytest.fixture(scope="session")
def api_server() -> Iterator[Admin]:
    """An API server on etcd, with the chart in it; nothing else runs."""
    with Cluster(slot=slots.OPERATOR).running(control_plane_only=True) as cluster:
        admin = Admin(cluster.kubeconfig)
        _install_chart(cluster.kubeconfig)
        yield admin
        admin.close()


@pytest.fixture(scope="session")
def operator_kubeconfig(api_server: Admin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with a token of the chart's ServiceAccount."""
    file = tmp_path_factory.mktemp("operator") / "kubeconfig"
    return kubeconfig_of(api_server, SYSTEM, "shardedmodel-operator", file)


@pytest.fixture(scope="module")
def operator(
    operator_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The operator, serving all namespaces; ended with the module, so that others start theirs."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with OperatorProcess(operator_kubeconfig, log) as process:
        yield process


@pytest.fixture
def admin(api_server: Admin) -> Iterator[Admin]:
    """All rights in a new namespace."""
    namespace = f"test-{next(_numbers)}"
    api_server.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    found = Admin(api_server.kubeconfig, namespace)
    # No controller makes it here, and no pod is admitted without.
    found.create("/api/v1/namespaces/{}/serviceaccounts", {"metadata": {"name": "default"}})
    yield found
    found.close()


@pytest.fixture
def kubelet(admin: Admin) -> PaperKubelet:
    """Moves the pods of that namespace."""
    return PaperKubelet(admin)


def kubeconfig_of(admin: Admin, namespace: str, account: str, file: Path) -> Path:
    """Write a kubeconfig with a token of a ServiceAccount."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = admin.request("POST", path, request)["status"]["token"]
    document = json.loads(admin.kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token}
    file.write_text(json.dumps(document))
    file.chmod(0o600)
    return file


def helm_run(kubeconfig: Path, *arguments: str) -> str:
    """Run helm; gives what it prints."""
    command = [str(helm()), "--kubeconfig", str(kubeconfig), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _install_chart(kubeconfig: Path) -> None:
    helm_run(
        kubeconfig,
        *("install", "shardedmodel-operator", str(CHART)),
        *("--namespace", SYSTEM, "--create-namespace", "--set", "runtimeImage=runtime:test"),
    )
