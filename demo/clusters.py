"""Where the demo can run: one small class for each way to a cluster, all with the same verbs.

``devcluster`` is made here, without Docker. ``kind`` needs Docker and kind. ``current`` is the
context of the current kubeconfig; its nodes must be able to get the three images by themselves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from demo.console import DemoError
from tests.devcluster import Cluster, build_image, tools

Say = Callable[[str], None]

DEMO_SLOT = 0
"""The development cluster's place for the demo; the tests use another, so both can be up."""
KIND_NAME = "shardedmodel-demo"


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the demo: the tag it runs under and the Dockerfile it is built from."""

    tag: str
    dockerfile: Path
    context: Path
    variable: str
    """Environment variable that names it for ``CLUSTER=current``, where nothing is built."""


class Provider(Protocol):
    """A cluster that the demo can use."""

    announcement: str

    def up(self, say: Say) -> None:
        """Make the cluster answer."""

    def provide(self, image: Image, say: Say) -> str:
        """Make ``image`` available to the nodes; returns the reference to run."""

    def kubeconfig(self) -> Path | None:
        """The kubeconfig to use; None for the current one."""

    def down(self, say: Say) -> None:
        """Take away what ``up`` made."""


class DevCluster:
    """A single node made on this machine, without Docker."""

    announcement = (
        "This installs Debian packages (etcd, containerd, runc, CNI plugins, buildah, …), builds "
        "the Kubernetes control plane from Debian's source package into ~/.cache/shardedmodel "
        "(about 9 minutes, once), and starts a single-node cluster. `make demo-down` stops and "
        "removes the cluster; packages and caches stay."
    )

    def __init__(self, slot: int = DEMO_SLOT) -> None:
        self._cluster = Cluster(slot=slot)

    def up(self, say: Say) -> None:
        """Start the node, or find it running."""
        if not self._cluster.is_up():
            self._cluster.up(progress=say)

    def provide(self, image: Image, say: Say) -> str:
        """Build with buildah and import into the node's containerd."""
        archive = build_image(image.dockerfile, image.context, image.tag, progress=say)
        self._cluster.load_image(archive)
        return image.tag

    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig of the node."""
        return self._cluster.kubeconfig

    def down(self, say: Say) -> None:
        """Stop the node and remove every trace of it."""
        self._cluster.down(keep_images=False, progress=say)


class Kind:
    """A kind cluster; needs Docker and kind on the PATH."""

    announcement = f"This creates the kind cluster {KIND_NAME} and builds three images with Docker."

    def up(self, say: Say) -> None:
        """Create the kind cluster unless it exists."""
        _need("kind", "docker")
        if KIND_NAME not in _run("kind", "get", "clusters").split():
            say("kind create cluster")
            _run("kind", "create", "cluster", "--name", KIND_NAME)

    def provide(self, image: Image, say: Say) -> str:
        """Build with Docker and load into the kind node."""
        say(f"docker build {image.tag}")
        _run("docker", "build", "-t", image.tag, "-f", str(image.dockerfile), str(image.context))
        _run("kind", "load", "docker-image", image.tag, "--name", KIND_NAME)
        return image.tag

    def kubeconfig(self) -> None:
        """``kind create cluster`` made its context the current one."""
        return None

    def down(self, say: Say) -> None:
        """Delete the kind cluster."""
        _need("kind")
        say("kind delete cluster")
        _run("kind", "delete", "cluster", "--name", KIND_NAME)


class Current:
    """The current kubeconfig's context, with images that its nodes can pull."""

    announcement = (
        "This uses the current kubeconfig context and installs the operator, an S3 server and two "
        "models into it."
    )

    def up(self, say: Say) -> None:
        """Nothing to make."""
        say("using the current context")

    def provide(self, image: Image, say: Say) -> str:
        """Take the reference from the environment.

        Raises:
            DemoError: the variable is not set.
        """
        reference = os.environ.get(image.variable, "")
        if not reference:
            raise DemoError(
                f"{image.variable} is not set: with CLUSTER=current, build {image.dockerfile}, "
                f"push it to where the nodes can pull from, and name it there"
            )
        return reference

    def kubeconfig(self) -> None:
        """The current one."""
        return None

    def down(self, say: Say) -> None:
        """The cluster is the user's: it stays."""
        say("the cluster stays; its namespaces were removed")


PROVIDERS: dict[str, type[DevCluster] | type[Kind] | type[Current]] = {
    "devcluster": DevCluster,
    "kind": Kind,
    "current": Current,
}


def client_tools() -> tuple[Path, Path]:
    """``kubectl`` and ``helm`` from the virtual environment."""
    return tools.kubectl(), tools.helm()


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise DemoError(f"{program} is not on the PATH; install it or use CLUSTER=devcluster")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
