"""The command line of each component, as its version wants it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.devcluster.binaries import Binaries
from tests.devcluster.credentials import NODE_NAME
from tests.devcluster.errors import MissingError
from tests.devcluster.node_config import KUBELET_ROOT
from tests.devcluster.settings import Slot, environment

#: What ``--control-plane-only`` starts.
CONTROL_PLANE = ("etcd", "kube-apiserver")

#: Started while the API server is still starting: a kubelet of 1.20 spends its first five seconds
#: looking for Docker.
RUNTIME = ("containerd", "kubelet")

#: Started once the API server is ready.
CONTROLLERS = ("kube-controller-manager",)
NODE = ("kube-scheduler", "kube-proxy", "dnsmasq", "dns")

#: Which of them are Kubernetes' or etcd's own programs.
PROGRAMS = (*CONTROL_PLANE, *CONTROLLERS, "kube-scheduler", "kubelet", "kube-proxy")

#: From this version on there is no insecure port that would have to be switched off.
_NO_INSECURE_PORT = (1, 23)

#: Until this version the kubelet has to be told that the runtime is not Docker.
_RUNTIME_FLAG_GONE = (1, 27)

#: Requests per second from a controller: the default of 20 makes the last of a hundred objects
#: wait for seconds, and this server has no other work.
_REQUESTS = ("--kube-api-qps=200", "--kube-api-burst=400")

CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")


def system_program(name: str) -> Path:
    """Finds a program of the system.

    Raises:
        MissingError: It is not installed.
    """
    found = shutil.which(name, path=environment()["PATH"])
    if not found:
        raise MissingError(f"{name} is not installed")
    return Path(found)


@dataclass(frozen=True)
class Commands:
    """Makes the command lines for one slot.

    Attributes:
        slot: Its folders, addresses and ports.
        binaries: The programs and their versions.
        address: Where the API server listens: the node's address, or 127.0.0.1 without a node.
    """

    slot: Slot
    binaries: Binaries
    address: str

    def of(self, component: str) -> list[str]:
        """Returns the command line of a component."""
        makers = {
            "etcd": self._etcd,
            "kube-apiserver": self._apiserver,
            "kube-controller-manager": self._controller_manager,
            "kube-scheduler": self._scheduler,
            "containerd": self._containerd,
            "kubelet": self._kubelet,
            "kube-proxy": self._proxy,
            "dnsmasq": self._dnsmasq,
            "dns": self._dns,
        }
        return makers[component]()

    def _etcd(self) -> list[str]:
        client = f"http://127.0.0.1:{self.slot.etcd_port}"
        peer = f"http://127.0.0.1:{self.slot.etcd_port + 1}"
        return [
            str(self.binaries["etcd"]),
            "--name=devcluster",
            f"--data-dir={self.slot.state / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=devcluster={peer}",
            # The cluster is thrown away; waiting for the disk would only slow the tests down.
            "--unsafe-no-fsync",
        ]

    def _apiserver(self) -> list[str]:
        pki = self.slot.pki
        return [
            str(self.binaries["kube-apiserver"]),
            f"--etcd-servers=http://127.0.0.1:{self.slot.etcd_port}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.slot.node_address}",
            f"--secure-port={self.slot.api_port}",
            f"--service-cluster-ip-range={self.slot.services}",
            f"--tls-cert-file={pki / 'kube-apiserver.crt'}",
            f"--tls-private-key-file={pki / 'kube-apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--token-auth-file={pki / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki / 'service-account.pub'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
            f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'kubelet-client.key'}",
            # Otherwise logs and exec look for the node's name in a DNS that does not know it.
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
        ]

    def _identity(self, component: str) -> list[str]:
        kubeconfig = self.slot.config / f"{component}.kubeconfig"
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            # There is one of each.
            "--leader-elect=false",
        ]

    def _ports(self, component: str, port: int) -> list[str]:
        secure = f"--secure-port={port}"
        old = self.binaries.version(component) < _NO_INSECURE_PORT
        return [secure, "--port=0"] if old else [secure]

    def _controller_manager(self) -> list[str]:
        name = "kube-controller-manager"
        return [
            str(self.binaries[name]),
            *self._identity(name),
            *self._ports(name, self.slot.controller_manager_port),
            *_REQUESTS,
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.slot.pki / 'service-account.key'}",
            f"--root-ca-file={self.slot.pki / 'ca.crt'}",
        ]

    def _scheduler(self) -> list[str]:
        name = "kube-scheduler"
        return [
            str(self.binaries[name]),
            *self._identity(name),
            *self._ports(name, self.slot.scheduler_port),
            *_REQUESTS,
        ]

    def _containerd(self) -> list[str]:
        config = self.slot.config / "containerd.toml"
        return [str(system_program("containerd")), "--config", str(config)]

    def _kubelet(self) -> list[str]:
        old = self.binaries.version("kubelet") < _RUNTIME_FLAG_GONE
        endpoint = f"--container-runtime-endpoint=unix://{CONTAINERD_SOCKET}"
        return [
            str(self.binaries["kubelet"]),
            f"--config={self.slot.config / 'kubelet.json'}",
            f"--kubeconfig={self.slot.config / 'kubelet.kubeconfig'}",
            f"--root-dir={KUBELET_ROOT}",
            f"--cert-dir={KUBELET_ROOT / 'pki'}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={self.slot.node_address}",
            *(["--container-runtime=remote", endpoint] if old else []),
        ]

    def _proxy(self) -> list[str]:
        config = self.slot.config / "kube-proxy.json"
        return [str(self.binaries["kube-proxy"]), f"--config={config}"]

    def _dnsmasq(self) -> list[str]:
        return [
            str(system_program("dnsmasq")),
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            # The state folder may lie below a home directory that only root may enter.
            "--user=root",
            "--log-facility=-",
            "--bind-interfaces",
            f"--listen-address={self.slot.node_address}",
            "--no-hosts",
            "--no-resolv",
            f"--hostsdir={self.slot.state / 'dns'}",
            # What is not in the files does not exist: answered at once, and never remembered, so
            # that a pod which asks too early finds its peers at the next attempt.
            "--address=/#/",
            "--no-negcache",
            "--cache-size=0",
        ]

    def _dns(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "tests.devcluster.dns",
            str(self.slot.config / "kube-proxy.kubeconfig"),
            str(self.slot.state / "dns" / "cluster"),
        ]
