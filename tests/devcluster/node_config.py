"""The configuration files of containerd, kubelet and kube-proxy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.devcluster import network
from tests.devcluster.binaries import Version
from tests.devcluster.credentials import NODE_NAME
from tests.devcluster.settings import NODE_STATE, Slot

#: Where the kubelet keeps volumes and sockets, as the node sees it.
KUBELET_ROOT = NODE_STATE / "kubelet"

#: A static program that waits; it holds a pod's namespaces. Nothing can be pulled here.
PAUSE_IMAGE = "localhost/pause:1"

#: From these versions on the kubelet's configuration has the field.
_HAS_RUNTIME_ENDPOINT = (1, 27)
_HAS_FAIL_CGROUP_V1 = (1, 31)


def write(slot: Slot, kubelet: Version, socket: Path) -> None:
    """Writes the node's configuration files into the slot's folder."""
    plugins = slot.config / "cni"
    plugins.mkdir(parents=True, exist_ok=True)
    (plugins / "10-devcluster.conflist").write_text(network.plugin_config(slot))
    (slot.config / "containerd.toml").write_text(containerd(slot, socket))
    _dump(slot.config / "kubelet.json", kubelet_config(slot, kubelet, socket))
    _dump(slot.config / "kube-proxy.json", proxy_config(slot))
    # Pods with the node's DNS settings get none: there is nothing to ask beyond the cluster.
    (slot.config / "resolv.conf").write_text("")


def _dump(path: Path, document: dict[str, Any]) -> None:
    # JSON is YAML, and the standard library writes it.
    path.write_text(json.dumps(document, indent=1))


def containerd(slot: Slot, socket: Path) -> str:
    """Returns containerd's configuration: all of its folders are the slot's own."""
    return f"""\
version = 2
root = "{NODE_STATE / slot.containerd_root.name}"
state = "/run/containerd"

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{NODE_STATE / "opt"}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE no score below containerd's own may be set.
  restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{network.PLUGINS}"
  conf_dir = "{slot.config / "cni"}"
"""


def kubelet_config(slot: Slot, version: Version, socket: Path) -> dict[str, Any]:
    """Returns the kubelet's configuration for its version."""
    document: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": slot.node_address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(slot.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{slot.cgroup}",
        "clusterDNS": [slot.node_address],
        "clusterDomain": "cluster.local",
        "resolvConf": str(slot.config / "resolv.conf"),
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        # The disk is the developer's own and may be fuller than a server's.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
        # 100 means never: an image that was removed could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        # An extended resource is allocatable only after the next report; the default is 10 s.
        "nodeStatusUpdateFrequency": "2s",
        # The defaults (5 requests, 5 events a second) delay what the tests wait for.
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "eventRecordQPS": 100,
        "eventBurst": 200,
    }
    if version >= _HAS_RUNTIME_ENDPOINT:
        document["containerRuntimeEndpoint"] = f"unix://{socket}"
    if version >= _HAS_FAIL_CGROUP_V1:
        document["failCgroupV1"] = False
    return document


def proxy_config(slot: Slot) -> dict[str, Any]:
    """Returns kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": slot.node_address,
        "hostnameOverride": NODE_NAME,
        "clientConnection": {"kubeconfig": str(slot.config / "kube-proxy.kubeconfig")},
        "clusterCIDR": str(slot.pods),
        "mode": "iptables",
        "oomScoreAdj": 0,
        # These kernel settings are the whole machine's: 0 leaves them alone.
        "conntrack": {
            "maxPerCore": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        # The defaults bundle changes for up to a second or more; tests wait for each.
        "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    }
