from __future__ import annotations

from pathlib import Path

import pytest

from tests.devcluster import components, network, node_config
from tests.devcluster.binaries import BUILT, Binaries, Version
from tests.devcluster.components import CONTAINERD_SOCKET, Commands
from tests.devcluster.settings import Slot

OLD: Version = (1, 20)
NEW: Version = (1, 37)


def commands(version: Version, address: str = "198.18.0.2") -> Commands:
    names = ("etcd", *BUILT)
    found = Binaries({name: Path("/bin") / name for name in names}, dict.fromkeys(BUILT, version))
    return Commands(Slot(0), found, address)


def test_an_old_kubelet_is_told_of_the_runtime_by_flags_and_a_new_one_by_its_file() -> None:
    old, new = commands(OLD).of("kubelet"), commands(NEW).of("kubelet")
    assert "--container-runtime=remote" in old
    assert f"--container-runtime-endpoint=unix://{CONTAINERD_SOCKET}" in old
    assert not any("runtime" in word for word in new)

    slot = Slot(0)
    assert "containerRuntimeEndpoint" not in node_config.kubelet_config(
        slot, OLD, CONTAINERD_SOCKET
    )
    config = node_config.kubelet_config(slot, NEW, CONTAINERD_SOCKET)
    assert config["containerRuntimeEndpoint"] == f"unix://{CONTAINERD_SOCKET}"
    assert config["failCgroupV1"] is False


@pytest.mark.parametrize("name", ["kube-controller-manager", "kube-scheduler"])
def test_insecure_ports_are_switched_off_where_there_are_any(name: str) -> None:
    assert "--port=0" in commands(OLD).of(name)
    assert "--port=0" not in commands(NEW).of(name)


def test_a_control_plane_alone_listens_on_loopback_only() -> None:
    for name in components.CONTROL_PLANE:
        words = commands(OLD, "127.0.0.1").of(name)
        listening = [word for word in words if "bind-address" in word or "listen" in word]
        assert listening
        assert all("127.0.0.1" in word for word in listening)


def test_every_component_has_a_command_line() -> None:
    made = commands(NEW)
    names = {*components.PROGRAMS, "dns"}
    assert all(made.of(name)[0].startswith("/") for name in names)


def test_a_kubelet_cleans_up_below_its_own_control_group_only() -> None:
    groups = {
        node_config.kubelet_config(Slot(number), OLD, CONTAINERD_SOCKET)["cgroupRoot"]
        for number in (0, 1)
    }
    assert groups == {"/shardedmodel-0", "/shardedmodel-1"}


def test_pods_get_addresses_of_their_slot() -> None:
    assert '"subnet": "198.18.20.0/22"' in network.plugin_config(Slot(1))
    assert node_config.proxy_config(Slot(1))["clusterCIDR"] == "198.18.20.0/22"
