"""Two operators on a real API server: one acts, the other takes over, never both."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_operator.settings import PREFIX
from tests.integration.operator.conftest import SYSTEM
from tests.integration.operator.forwarder import Forwarder
from tests.integration.operator.world import (
    JOBS,
    Admin,
    OperatorProcess,
    PaperKubelet,
    eventually,
)

pytestmark = pytest.mark.integration

LEASE = "shardedmodel-operator"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"
HAND_OVER_SECONDS = 60.0
"""Longest wait for a hand-over; the usual is below 15 s, docs/operating.md has the figures."""


def leads(operator: OperatorProcess) -> bool:
    return "\nshardedmodel_operator_leader 1\n" in operator.get("/metrics")


def acted(operator: OperatorProcess) -> int:
    """Calls that change something, the Lease apart."""
    pattern = (
        r'api_calls_total\{verb="(?:create|patch|delete|update)",resource="(?!leases)[^}]*\} (\d+)'
    )
    return sum(map(int, re.findall(pattern, operator.get("/metrics"))))


@pytest.fixture
def pair(
    admin: Admin, operator_kubeconfig: Path, tmp_path: Path
) -> Iterator[tuple[OperatorProcess, OperatorProcess]]:
    """One that leads, and one that was started after it and waits."""
    with ExitStack() as stack:
        found = []
        for name in ("first", "second"):
            process = OperatorProcess(
                operator_kubeconfig,
                tmp_path / name,
                *("--namespace", admin.namespace),
                variables={"SHARDEDMODEL_LEASE": f"{SYSTEM}/{LEASE}"},
            )
            found.append(stack.enter_context(process))
            eventually(lambda: leads(found[0]) or None, "the first leads", HAND_OVER_SECONDS)
        yield found[0], found[1]


def wait_until_leads(operator: OperatorProcess) -> None:
    eventually(lambda: leads(operator) or None, "the other one leads", HAND_OVER_SECONDS)


def test_the_one_that_waits_does_nothing(
    pair: tuple[OperatorProcess, OperatorProcess], admin: Admin, kubelet: PaperKubelet
) -> None:
    first, second = pair
    admin.apply_model("minilm")
    kubelet.job("minilm")
    assert (leads(first), leads(second)) == (True, False)
    assert acted(first) > 0
    assert acted(second) == 0


def test_when_the_holder_is_killed_the_other_acts(
    pair: tuple[OperatorProcess, OperatorProcess], admin: Admin, kubelet: PaperKubelet
) -> None:
    first, second = pair
    first.kill()
    admin.apply_model("minilm")
    wait_until_leads(second)
    kubelet.job("minilm")
    assert len(admin.list(JOBS)) == 1


def test_an_operator_that_is_told_to_end_hands_the_lease_on(
    pair: tuple[OperatorProcess, OperatorProcess], admin: Admin
) -> None:
    first, second = pair
    assert first.stop() == 0
    assert "handed the Lease on" in first.log
    wait_until_leads(second)


def test_a_holder_that_slept_acts_no_more_when_it_wakes(
    pair: tuple[OperatorProcess, OperatorProcess], admin: Admin, kubelet: PaperKubelet
) -> None:
    first, second = pair
    first.signal(signal.SIGSTOP)
    wait_until_leads(second)
    first.signal(signal.SIGCONT)
    before = acted(first)
    admin.apply_model("minilm")
    kubelet.job("minilm")
    assert (leads(first), leads(second)) == (False, True)
    assert acted(first) == before


def test_a_holder_that_is_cut_off_acts_no_more_and_waits_when_it_is_back(
    admin: Admin,
    kubelet: PaperKubelet,
    operator_kubeconfig: Path,
    tmp_path: Path,
) -> None:
    lease: dict[str, Any] = {"SHARDEDMODEL_LEASE": f"{SYSTEM}/{LEASE}"}
    flags = ("--namespace", admin.namespace)
    with (
        Forwarder(operator_kubeconfig, tmp_path / "kubeconfig") as link,
        OperatorProcess(link.kubeconfig, tmp_path / "first", *flags, variables=lease) as first,
    ):
        wait_until_leads(first)
        with OperatorProcess(
            operator_kubeconfig, tmp_path / "second", *flags, variables=lease
        ) as second:
            link.cut()
            eventually(lambda: not leads(first) or None, "the first gives up", HAND_OVER_SECONDS)
            wait_until_leads(second)
            assert not leads(first)
            before = acted(first)
            admin.apply_model("minilm")
            kubelet.job("minilm")
            link.mend()
            eventually(
                lambda: _calls(first, "leases", "200") > _calls(first, "leases", "none") or None,
                "the first is back",
                HAND_OVER_SECONDS,
            )
            assert (leads(first), leads(second)) == (False, True)
            assert acted(first) == before


def _calls(operator: OperatorProcess, resource: str, code: str) -> int:
    pattern = rf'resource="{resource}",code="{code}"\}} (\d+)'
    return sum(map(int, re.findall(pattern, operator.get("/metrics"))))


def test_a_check_with_the_operators_account_finds_who_leads(
    pair: tuple[OperatorProcess, OperatorProcess], admin: Admin, operator_kubeconfig: Path
) -> None:
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(PREFIX)},
        "KUBECONFIG": str(operator_kubeconfig),
        "SHARDEDMODEL_RUNTIME_IMAGE": "runtime:test",
        "SHARDEDMODEL_LEASE": f"{SYSTEM}/{LEASE}",
    }
    command = [sys.executable, "-m", "shardedmodel_operator", "check"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    holder = admin.get(LEASES, LEASE)["spec"]["holderIdentity"]
    assert f"{holder} leads by the Lease {SYSTEM}/{LEASE}" in done.stdout


def test_the_lease_tells_who_holds_it(
    pair: tuple[OperatorProcess, OperatorProcess], admin: Admin
) -> None:
    spec = admin.get(LEASES, LEASE)["spec"]
    assert spec["holderIdentity"].startswith(os.uname().nodename)
    assert spec["leaseDurationSeconds"] < 15
