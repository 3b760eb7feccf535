"""Debian's packages: what the cluster needs, and how what is missing gets installed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence

from tests.devcluster.errors import MissingError
from tests.devcluster.settings import cache_home
from tests.devcluster.shell import Progress, lock, run_long

#: etcd and openssl for the keys: all that an API server needs.
CONTROL_PLANE = ("etcd-server", "openssl")

#: The node: runtime, network plugins, kube-proxy's tools, DNS; gcc builds the pause program.
NODE = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "iproute2",
    "conntrack",
    "dnsmasq-base",
    "gcc",
    "libc6-dev",
)

#: What building Kubernetes from Debian's source package takes.
KUBERNETES_BUILD = (
    "golang-go",
    "golang-github-modern-go-reflect2-dev",
    "gcc",
    "libc6-dev",
    "make",
    "rsync",
)

#: What building images takes.
IMAGE_BUILD = ("buildah", "debootstrap")

#: RUNLEVEL=1 keeps invoke-rc.d from starting the system's own etcd or containerd: the cluster
#: has processes of its own.
_APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}


def installed() -> set[str]:
    """Returns the names of the packages that are installed."""
    try:
        listing = subprocess.run(
            ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    except FileNotFoundError as error:
        raise MissingError("dpkg-query is missing: this needs Debian 12") from error
    rows = (line.split(maxsplit=1) for line in listing.splitlines())
    return {row[1] for row in rows if len(row) == 2 and row[0] == "installed"}


def ensure(packages: Iterable[str], progress: Progress) -> None:
    """Installs those of the packages that are missing, and says beforehand which.

    Raises:
        MissingError: Some are missing and this process may not install them.
        CommandError: apt-get failed.
    """
    wanted = set(packages)
    if wanted <= installed():
        return
    with lock(cache_home() / "apt.lock", "another installation of packages", progress):
        _install(sorted(wanted - installed()), progress)


def _install(missing: Sequence[str], progress: Progress) -> None:
    if not missing:
        return  # another process installed them meanwhile
    progress("will be installed with apt-get: " + " ".join(missing))
    if os.geteuid() != 0:
        raise MissingError(f"run as root, or first: apt-get install {' '.join(missing)}")
    log = cache_home() / "logs" / "apt.log"
    run_long("apt-get update", ["apt-get", "update"], log, progress, env=_APT_ENVIRONMENT)
    run_long(
        "apt-get install",
        ["apt-get", "install", "--yes", "--no-install-recommends", *missing],
        log,
        progress,
        env=_APT_ENVIRONMENT,
    )
