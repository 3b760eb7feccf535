"""The node's container runtime: whether it answers, and which images it has."""

from __future__ import annotations

import time
from pathlib import Path

from tests.devcluster import archives
from tests.devcluster.components import CONTAINERD_SOCKET
from tests.devcluster.errors import CommandError
from tests.devcluster.processes import Supervisor
from tests.devcluster.shell import Progress, run

#: Where Kubernetes keeps its images and containers within containerd.
_NAMESPACE = "k8s.io"


class Runtime:
    """The containerd of one slot."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            self._ctr("version")
        except CommandError:
            return False
        return True

    def load(self, archive: Path, progress: Progress) -> None:
        """Imports an archive, unless all that is in it is there under its names.

        Raises:
            DevClusterError: It is no archive, or there is no node.
        """
        present = self._images()
        if all(is_present(image, present) for image in archives.contents(archive)):
            progress(f"{archive.name}: already there")
            return
        progress(f"{archive.name}: importing {archive.stat().st_size / 1e6:.0f} MB")
        started = time.monotonic()
        self._ctr("images", "import", str(archive.resolve()))
        progress(f"{archive.name}: imported in {time.monotonic() - started:.1f} s")

    def tag(self, name: str, other: str) -> None:
        """Gives an image a further name.

        Raises:
            CommandError: There is no image of this name.
        """
        self._ctr("images", "tag", "--force", name, other)

    def _images(self) -> dict[str, str]:
        """Returns the images' names, each with the digest of its manifest."""
        rows = [line.split() for line in self._ctr("images", "list").splitlines()[1:]]
        return {row[0]: row[2] for row in rows if len(row) > 2}

    def _ctr(self, *arguments: str) -> str:
        command: list[str | Path] = ["ctr", "--address", CONTAINERD_SOCKET]
        return run(self._supervisor.in_node([*command, "--namespace", _NAMESPACE, *arguments]))


def is_present(image: archives.Content, present: dict[str, str]) -> bool:
    """Whether a node with these images (name to manifest digest) has exactly this one."""
    # containerd also names an image after its configuration's digest, with that of its manifest.
    manifest = image.digest if image.is_manifest else present.get(image.digest)
    names = image.names
    return bool(manifest and names) and all(present.get(name) == manifest for name in names)
