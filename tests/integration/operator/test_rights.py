from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.devcluster.tools import kubectl

pytestmark = pytest.mark.integration


def may(kubeconfig: Path, verb: str, resource: str) -> bool:
    """Ask the API server whether the operator's ServiceAccount may."""
    command = [str(kubectl()), "--kubeconfig", str(kubeconfig), "auth", "can-i", verb, resource]
    arguments = [*command, "--all-namespaces"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.strip() in ("yes", "no"), done.stderr
    return done.stdout.strip() == "yes"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods"),
        ("patch", "pods"),
        ("create", "pods/exec"),
        ("create", "pods/eviction"),
        ("create", "serviceaccounts"),
        ("create", "serviceaccounts/token"),
        ("impersonate", "serviceaccounts"),
        ("use", "podsecuritypolicies.policy"),
        ("patch", "namespaces"),
        ("patch", "resourcequotas"),
        ("get", "pods/log"),
        ("create", "shardedmodels.shardedmodel.dev"),
        ("delete", "shardedmodels.shardedmodel.dev"),
        ("get", "configmaps"),
        ("list", "namespaces"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("bind", "clusterroles.rbac.authorization.k8s.io"),
        ("escalate", "roles.rbac.authorization.k8s.io"),
    ],
)
def test_the_operator_may_not(operator_kubeconfig: Path, verb: str, resource: str) -> None:
    assert not may(operator_kubeconfig, verb, resource)


def test_the_operator_may_what_the_other_tests_prove_that_it_needs(
    operator_kubeconfig: Path,
) -> None:
    assert may(operator_kubeconfig, "patch", "jobs.batch")
