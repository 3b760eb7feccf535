"""Keys, certificates, tokens and kubeconfigs: made anew for each cluster, worth nothing after."""

from __future__ import annotations

import base64
import csv
import json
import secrets
from pathlib import Path

from tests.devcluster.settings import Slot
from tests.devcluster.shell import run

#: Longer than any cluster of this kind lives.
_DAYS = "30"

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

#: The node's name; it is also in the kubelet's user name.
NODE_NAME = "devcluster"

#: Who may come with a token: user and groups. The names are those that Kubernetes' own cluster
#: roles are bound to; ``system:masters`` may do everything.
USERS = {
    "admin": ("admin", "system:masters"),
    "kubelet": (f"system:node:{NODE_NAME}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
}


def create(slot: Slot, address: str) -> None:
    """Makes everything that the components of a slot prove themselves with.

    Args:
        slot: Whose folders are filled.
        address: Where the API server listens.
    """
    for folder in (slot.pki, slot.config):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _authority(slot.pki)
    _issue(slot.pki, "kube-apiserver", "/CN=kube-apiserver", _names(slot, address))
    # The API server's identity towards the kubelet, for logs and exec.
    _issue(slot.pki, "kubelet-client", "/O=system:masters/CN=kube-apiserver", None)
    _service_account_key(slot.pki)
    tokens = {name: secrets.token_hex(16) for name in USERS}
    with (slot.pki / "tokens.csv").open("w", newline="") as file:
        for name, (user, groups) in USERS.items():
            csv.writer(file).writerow([tokens[name], user, name, *([groups] if groups else [])])
    for name, token in tokens.items():
        path = slot.kubeconfig if name == "admin" else slot.config / f"{name}.kubeconfig"
        path.write_text(_kubeconfig(slot, address, name, token))
        path.chmod(0o600)


def _names(slot: Slot, address: str) -> str:
    hosts = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    hosts.append("kubernetes.default.svc.cluster.local")
    addresses = dict.fromkeys([address, "127.0.0.1", slot.first_service])
    return ",".join([*(f"DNS:{host}" for host in hosts), *(f"IP:{ip}" for ip in addresses)])


def _authority(folder: Path) -> None:
    _certificate(folder, "ca", "/CN=devcluster")


def _issue(folder: Path, name: str, subject: str, alternatives: str | None) -> None:
    extensions = ["basicConstraints=critical,CA:FALSE"]
    extensions.append(f"extendedKeyUsage={'serverAuth' if alternatives else 'clientAuth'}")
    if alternatives:
        extensions.append(f"subjectAltName={alternatives}")
    signed = ["-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key")]
    for extension in extensions:
        signed += ["-addext", extension]
    _certificate(folder, name, subject, *signed)


def _certificate(folder: Path, name: str, subject: str, *options: str) -> None:
    command: list[str | Path] = ["openssl", "req", "-x509", *_KEY, "-days", _DAYS]
    command += ["-subj", subject, *options]
    command += ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"]
    run(command)


def _service_account_key(folder: Path) -> None:
    key = folder / "service-account.key"
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key])
    run(["openssl", "ec", "-in", key, "-pubout", "-out", folder / "service-account.pub"])


def _kubeconfig(slot: Slot, address: str, user: str, token: str) -> str:
    """Returns a kubeconfig; JSON is YAML, so the standard library writes it."""
    authority = base64.b64encode((slot.pki / "ca.crt").read_bytes()).decode()
    server = f"https://{address}:{slot.api_port}"
    name = f"devcluster-{slot.number}"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}
        ],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }
    return json.dumps(document, indent=1)
