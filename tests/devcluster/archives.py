"""Image archives: what is in one, and how the one for the pause program is made."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.devcluster.errors import DevClusterError
from tests.devcluster.settings import cache_home
from tests.devcluster.shell import run

#: It holds a pod's namespaces, and reaps where a pod's containers share their processes.
_PAUSE_SOURCE = """\
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void down(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void) {
  signal(SIGINT, down);
  signal(SIGTERM, down);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
"""


@dataclass(frozen=True)
class Content:
    """One image in an archive.

    Attributes:
        names: Its tags.
        digest: Of the image's configuration in a docker archive, of its manifest in an OCI one.
        is_manifest: Which of the two.
    """

    names: tuple[str, ...]
    digest: str
    is_manifest: bool


def contents(archive: Path) -> list[Content]:
    """Returns the images in a docker or OCI archive, without reading its layers.

    Raises:
        DevClusterError: It is not such an archive.
    """
    try:
        with tarfile.open(archive) as file:
            members = file.getnames()
            if "manifest.json" in members:
                return [_docker_image(entry) for entry in _load(file, "manifest.json")]
            if "index.json" in members:
                return [_oci_image(entry) for entry in _load(file, "index.json")["manifests"]]
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise DevClusterError(f"{archive} is not an image archive: {error}") from error
    raise DevClusterError(f"{archive} is neither a docker nor an OCI archive")


def _load(file: tarfile.TarFile, name: str) -> Any:
    member = file.extractfile(name)
    assert member is not None, f"{name} is a file"
    return json.load(member)


def _docker_image(entry: dict[str, Any]) -> Content:
    # Its name is the digest: HEX.json, or blobs/sha256/HEX.
    digest = Path(entry["Config"]).name.removesuffix(".json")
    return Content(tuple(entry.get("RepoTags") or ()), f"sha256:{digest}", False)


def _oci_image(entry: dict[str, Any]) -> Content:
    annotations = entry.get("annotations") or {}
    name = annotations.get("io.containerd.image.name") or annotations.get(
        "org.opencontainers.image.ref.name"
    )
    return Content((name,) if name else (), entry["digest"], True)


def pause_archive(tag: str) -> Path:
    """Returns the archive of the pause image, compiled when first asked for."""
    archive = cache_home() / "images" / "pause.tar"
    if archive.exists():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as work:
        program = Path(work) / "pause"
        compiler: list[str | Path] = ["gcc", "-Os", "-static", "-s", "-x", "c", "-o", program, "-"]
        run(compiler, stdin=_PAUSE_SOURCE)
        temporary = Path(work) / archive.name
        _write_image(temporary, tag, program.read_bytes())
        temporary.replace(archive)
    return archive


def _write_image(archive: Path, tag: str, program: bytes) -> None:
    layer = _tar({"pause": program}, mode=0o755)
    config = json.dumps(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
            },
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}])
    files = {name: config, "layer.tar": layer, "manifest.json": manifest.encode()}
    archive.write_bytes(_tar(files, mode=0o644))


def _architecture() -> str:
    return run(["dpkg", "--print-architecture"]).strip()


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
