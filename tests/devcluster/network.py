"""The cable between host and node, and how pods get their network."""

from __future__ import annotations

import json
from pathlib import Path

from tests.devcluster.settings import Slot
from tests.devcluster.shell import run

#: Where Debian's containernetworking-plugins puts the plugins.
PLUGINS = Path("/usr/lib/cni")


def connect(slot: Slot, node_pid: int, in_node: list[str]) -> None:
    """Lays the cable, and the host's routes to pods and ClusterIPs through it.

    There is no route from the node to anywhere else, and no rule on the host: what runs in the
    cluster reaches the cluster and this host, nothing beyond.

    Args:
        slot: Whose addresses are used.
        node_pid: A process in the node's network namespace.
        in_node: The words that run a command within the node.
    """
    link = slot.host_link
    cable = ["peer", "name", "eth0", "netns", str(node_pid)]
    run(["ip", "link", "add", link, "type", "veth", *cable])
    prefix = slot.link.prefixlen
    run(["ip", "address", "add", f"{slot.host_address}/{prefix}", "dev", link])
    run(["ip", "link", "set", link, "up"])
    run([*in_node, "ip", "address", "add", f"{slot.node_address}/{prefix}", "dev", "eth0"])
    run([*in_node, "ip", "link", "set", "eth0", "up"])
    for network in (slot.pods, slot.services):
        run(["ip", "route", "replace", str(network), "via", slot.node_address, "dev", link])


def is_connected(slot: Slot) -> bool:
    """Whether the host's end of the cable is there; the routes live and die with it."""
    return (Path("/sys/class/net") / slot.host_link).exists()


def disconnect(slot: Slot) -> None:
    """Takes the cable away, if it is there."""
    if is_connected(slot):
        run(["ip", "link", "delete", slot.host_link])


def plugin_config(slot: Slot) -> str:
    """Returns the list of network plugins that containerd runs for each pod.

    ``ptp`` gives each pod a cable of its own and routes between them. On a bridge, an answer to a
    ClusterIP would go straight from pod to pod and miss its translation back, unless the kernel
    module br_netfilter were there.
    """
    addresses = {
        "type": "host-local",
        "subnet": str(slot.pods),
        "dataDir": "/run/cni",
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipam": addresses},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "0.4.0", "name": "devcluster", "plugins": plugins}, indent=1)
