from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.devcluster.settings import ADDRESSES, MAX_SLOT, Slot, cache_home

SLOTS = [Slot(number) for number in range(MAX_SLOT + 1)]


def test_no_two_networks_of_any_slots_overlap() -> None:
    networks = [net for slot in SLOTS for net in (slot.link, slot.pods, slot.services)]
    assert all(network.subnet_of(ADDRESSES) for network in networks)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(networks, 2))


def test_no_two_slots_share_a_port() -> None:
    ports = [
        port
        for slot in SLOTS
        for port in (
            slot.api_port,
            slot.etcd_port,
            slot.etcd_port + 1,
            slot.controller_manager_port,
            slot.scheduler_port,
        )
    ]
    assert len(set(ports)) == len(ports)
    # NodePorts begin there.
    assert max(ports) < 30000


@pytest.mark.parametrize("name", ["host_link", "cgroup", "state", "host_address", "node_address"])
def test_every_slot_has_a_name_of_its_own(name: str) -> None:
    assert len({getattr(slot, name) for slot in SLOTS}) == len(SLOTS)


def test_a_link_name_fits_the_kernel() -> None:
    # IFNAMSIZ is 16 with the final zero.
    assert all(len(slot.host_link) <= 15 for slot in SLOTS)


@pytest.mark.parametrize("number", [-1, MAX_SLOT + 1])
def test_a_slot_without_addresses_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=r"is not within 0\.\.9"):
        Slot(number)


def test_folders_follow_the_xdg_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert cache_home() == tmp_path / "cache" / "shardedmodel"
    assert Slot(3).state == tmp_path / "state" / "shardedmodel" / "devcluster-3"
