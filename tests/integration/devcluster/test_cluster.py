"""The node that the other tests stand on: whole after any end, and gone without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import slots
from tests.devcluster import Cluster, packages, tools
from tests.devcluster.processes import NODE, Supervisor

pytestmark = pytest.mark.integration


def host_state() -> dict[str, str]:
    """What a node could leave behind on the host."""
    listing = ["iptables-save"], ["ip", "-brief", "link"], ["ip", "route"]
    found = {
        " ".join(command): subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout
        for command in listing
    }
    # Comments hold the time, and chains their counters.
    rules = [line for line in found["iptables-save"].splitlines() if line.startswith("-A")]
    links = [line.split("@")[0].split()[0] for line in found["ip -brief link"].splitlines()]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "rules": "\n".join(rules),
        "links": "\n".join(link for link in links if not link.startswith("veth")),
        "routes": found["ip route"],
        "mounts": "\n".join(sorted(mounts)),
    }


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A slot of this test's own, taken away afterwards."""
    packages.ensure(packages.NODE, print)  # a bare machine has no iptables-save yet
    cluster = Cluster(slot=slots.DEVCLUSTER)
    yield cluster
    cluster.down(keep_images=False)


def nodes(cluster: Cluster) -> str:
    command = [str(tools.kubectl()), "--kubeconfig", str(cluster.kubeconfig), "get", "nodes"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_node_comes_up_ready_and_goes_without_a_trace(cluster: Cluster) -> None:
    before = host_state()
    cluster.up()
    assert " Ready " in nodes(cluster)
    cluster.down(keep_images=False)
    assert cluster.leftovers() == []
    assert host_state() == before


def test_up_starts_clean_over_a_node_that_was_killed(cluster: Cluster) -> None:
    cluster.up()
    node = Supervisor(cluster.slot).process(NODE)
    assert node is not None
    os.kill(node.pid, signal.SIGKILL)
    cluster.up()
    assert " Ready " in nodes(cluster)
