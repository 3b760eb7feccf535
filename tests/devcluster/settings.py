"""Where the cluster keeps what, and which addresses each slot has.

All of it is derived from the slot's number, so slots cannot collide and ``down`` knows without a
record what ``up`` may have made. The environment is read here and nowhere else.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

#: The folder that ``python -m tests.devcluster`` must be run from.
REPOSITORY = Path(__file__).resolve().parents[2]

#: The address plan below has room for ten slots of sixteen /24 networks in one /16.
MAX_SLOT = 9

#: RFC 2544 reserves 198.18.0.0/15 for tests of network devices: no real network uses it, so
#: nothing that the machine can reach is hidden. Slot N takes the sixteen /24 from 16 N on.
ADDRESSES = ipaddress.IPv4Network("198.18.0.0/16")

#: Below the ephemeral ports (from 32768) and the NodePorts (from 30000); ten to a slot.
FIRST_PORT = 16440

#: The environment variable that marks every process of a slot, so that a sweep finds them even
#: where the pid files are gone.
MARKER = "SHARDEDMODEL_DEVCLUSTER"

#: Where programs lie that only root has in PATH.
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"

#: Where the node sees its state folder. Unix sockets allow a path of 107 characters, which a
#: state folder deep in a home directory would exceed; this path is short and always the same.
NODE_STATE = Path("/run/node")


def cache_home() -> Path:
    """Returns what is costly to make and the same for every slot: binaries, images, tools."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "shardedmodel"


def state_home() -> Path:
    """Returns the folder that holds one folder for each slot."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base).resolve() / "shardedmodel"


def kubebuilder_assets() -> Path | None:
    """Returns the folder of binaries that take precedence, as envtest has it, or None."""
    value = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(value).resolve() if value else None


def environment() -> dict[str, str]:
    """Returns the environment for programs: PATH with the folders that are root's.

    After ``su`` without a dash, Debian's root has a PATH without ip, iptables and debootstrap.
    """
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}"}


@dataclass(frozen=True)
class Slot:
    """The names, folders, addresses and ports of one cluster."""

    number: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.number <= MAX_SLOT:
            raise ValueError(f"slot {self.number} is not within 0..{MAX_SLOT}")

    @property
    def state(self) -> Path:
        """Everything of this slot: configuration, keys, logs, pids, data of etcd and containerd."""
        return state_home() / f"devcluster-{self.number}"

    @property
    def logs(self) -> Path:
        """One log file for each component."""
        return self.state / "logs"

    @property
    def pids(self) -> Path:
        """One pid record for each component."""
        return self.state / "pids"

    @property
    def pki(self) -> Path:
        """Keys, certificates and tokens."""
        return self.state / "pki"

    @property
    def config(self) -> Path:
        """The components' configuration files and kubeconfigs."""
        return self.state / "config"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "kubeconfig"

    @property
    def containerd_root(self) -> Path:
        """Images and snapshots: the one folder that outlives ``down``."""
        return self.state / "containerd"

    def _network(self, offset: int, prefix: int) -> ipaddress.IPv4Network:
        start = ADDRESSES.network_address + (16 * self.number + offset) * 256
        return ipaddress.IPv4Network(f"{start}/{prefix}")

    @property
    def link(self) -> ipaddress.IPv4Network:
        """Host and node: .1 and .2."""
        return self._network(0, 24)

    @property
    def host_address(self) -> str:
        """The host, as the node and its pods see it."""
        return str(self.link[1])

    @property
    def node_address(self) -> str:
        """The node: its kubelet, its DNS server and the API server."""
        return str(self.link[2])

    @property
    def pods(self) -> ipaddress.IPv4Network:
        """The pods' addresses; they are reachable from the host."""
        return self._network(4, 22)

    @property
    def services(self) -> ipaddress.IPv4Network:
        """The ClusterIPs, enough for a thousand models; they are reachable from the host."""
        return self._network(8, 21)

    @property
    def first_service(self) -> str:
        """The ClusterIP of ``kubernetes.default``."""
        return str(self.services[1])

    @property
    def host_link(self) -> str:
        """The host's end of the cable to the node."""
        return f"shmodel{self.number}"

    @property
    def cgroup(self) -> str:
        """The control group that the kubelet makes its own below.

        Each kubelet removes the pods' groups that it does not know, so they must not share one.
        """
        return f"shardedmodel-{self.number}"

    @property
    def api_port(self) -> int:
        """The API server's port."""
        return FIRST_PORT + 10 * self.number

    @property
    def etcd_port(self) -> int:
        """The port of etcd for clients; the next one is for peers."""
        return self.api_port + 1

    @property
    def controller_manager_port(self) -> int:
        """The port where the controller-manager says whether it is healthy."""
        return self.api_port + 3

    @property
    def scheduler_port(self) -> int:
        """The port where the scheduler says whether it is healthy."""
        return self.api_port + 4
