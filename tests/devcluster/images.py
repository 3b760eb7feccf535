"""Building images with buildah from the very Dockerfiles that are built with Docker elsewhere."""

from __future__ import annotations

import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.devcluster import apt_sources, build_context, packages, pip_settings
from tests.devcluster.errors import BuildError, CommandError, MissingError
from tests.devcluster.settings import cache_home
from tests.devcluster.shell import Progress, lock, run, run_long, silent

#: What ``ARG BASE`` is set to: Python on Debian, as in the image that the Dockerfiles name.
BASE_TAG = "localhost/base:1"

#: Python as the official image has it: with venv and pip.
_BASE_PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")

#: Not needed in an image; a third of its size.
_BASE_LITTER = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale")


def _folder() -> Path:
    return cache_home() / "images"


def _buildah(*arguments: str | Path) -> list[str | Path]:
    """Returns the command line of a buildah with a store of the project's own."""
    return [*_with_driver(_driver()), *arguments]


@functools.cache
def _driver() -> str:
    """Returns how layers are stored: overlay, or where the disk cannot do that whole copies."""
    try:
        run([*_with_driver("overlay"), "info"])
    except CommandError:
        return "vfs"
    return "overlay"


def _with_driver(driver: str) -> list[str | Path]:
    # In a mount namespace of its own: buildah leaves its store mounted.
    store = cache_home() / "buildah" / driver
    roots: list[str | Path] = ["--root", store / "storage", "--runroot", store / "run"]
    return ["unshare", "--mount", "buildah", *roots, "--storage-driver", driver]


def build_image(
    dockerfile: Path,
    context: Path,
    tag: str,
    build_args: Mapping[str, str] | None = None,
    target: str | None = None,
    *,
    output: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """Builds an image, unless exactly this one was built before.

    Args:
        dockerfile: Its path.
        context: The folder that it copies from; ``.dockerignore`` there is respected.
        tag: The image's full name, such as ``localhost/operator:dev``.
        build_args: Values for the Dockerfile's ARGs; ``BASE`` is :data:`BASE_TAG` unless given.
        target: The stage to build, or None for the last one.
        output: The archive; None for one in the cache.
        progress: Receives lines that say what is being done.

    Returns:
        A docker archive that holds the image under its tag.

    Raises:
        BuildError: The build failed; the message holds the end of its log.
    """
    arguments = {"BASE": BASE_TAG, **(build_args or {})}
    options = {"tag": tag, "target": target or "", **arguments}
    name = re.sub(r"\W+", "-", tag)
    archive = _folder() / f"{name}.{build_context.key(dockerfile, context, options)}.tar"
    with lock(cache_home() / "buildah.lock", "another build of an image", progress):
        if archive.exists():
            progress(f"{tag}: unchanged")
        else:
            _prepare(progress)
            if arguments["BASE"] == BASE_TAG:
                _ensure_base(progress)
            _build(dockerfile, context, tag, arguments, target, progress)
            _export(tag, archive, progress)
            _forget_others(archive, name)
    return _place(archive, output)


def _prepare(progress: Progress) -> None:
    if os.geteuid() != 0:
        raise MissingError("building images here needs root")
    packages.ensure(packages.IMAGE_BUILD, progress)


def _build(
    dockerfile: Path,
    context: Path,
    tag: str,
    arguments: Mapping[str, str],
    target: str | None,
    progress: Progress,
) -> None:
    log = cache_home() / "logs" / f"build-{re.sub(r'[^a-z0-9]+', '-', tag)}.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="shardedmodel-build-") as work:
        staged = Path(work) / "context"
        build_context.stage(context, staged)
        volumes = pip_settings.volumes(pip_settings.read(), Path(work) / "pip.conf")
        words: list[str] = ["--isolation=chroot", "--layers", "--pull=never", f"--tag={tag}"]
        words += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        words += [f"--target={target}"] if target else []
        command = _buildah("bud", *words, *volumes, "--file", dockerfile.resolve(), staged)
        _logged(f"building {tag}", command, log, progress)


def _logged(what: str, command: list[str | Path], log: Path, progress: Progress) -> None:
    try:
        run_long(what, command, log, progress)
    except CommandError as error:
        raise BuildError(f"{what}: {error}") from error


def _export(tag: str, archive: Path, progress: Progress) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    log = cache_home() / "logs" / "export.log"
    destination = f"docker-archive:{temporary}:{tag}"
    _logged(f"exporting {tag}", _buildah("push", tag, destination), log, progress)
    temporary.replace(archive)


def _forget_others(archive: Path, name: str) -> None:
    """Removes earlier builds of a tag: an image with torch takes more than a gigabyte."""
    for other in archive.parent.glob(f"{name}.*.tar"):
        if other != archive:
            other.unlink()


def _place(archive: Path, output: Path | None) -> Path:
    if output is None:
        return archive
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    try:
        output.hardlink_to(archive)
    except OSError:
        # Another file system.
        shutil.copyfile(archive, output)
    return output


def _ensure_base(progress: Progress) -> None:
    if BASE_TAG in _images():
        return
    with tempfile.TemporaryDirectory(prefix="base-", dir=_made(cache_home())) as work:
        tree = Path(work) / "tree"
        _debootstrap(tree, progress)
        container = run(_buildah("from", "scratch")).strip()
        run(_buildah("add", "--quiet", container, tree, "/"))
        run(_buildah("config", "--cmd", "python3", container))
        run(_buildah("commit", "--quiet", "--rm", container, BASE_TAG))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _images() -> Iterable[str]:
    return run(_buildah("images", "--format", "{{.Name}}:{{.Tag}}")).split()


def _debootstrap(tree: Path, progress: Progress) -> None:
    name = apt_sources.codename()
    source = apt_sources.mirror(apt_sources.read(), name)
    ring = [f"--keyring={source.signed_by}"] if source.signed_by else []
    include = f"--include={','.join(_BASE_PACKAGES)}"
    command: list[str | Path] = [
        "debootstrap",
        "--variant=minbase",
        *ring,
        include,
        name,
        tree,
        source.uri,
    ]
    log = cache_home() / "logs" / "base-image.log"
    _logged("making the base image with debootstrap", command, log, progress)
    for litter in _BASE_LITTER:
        shutil.rmtree(tree / litter, ignore_errors=True)
        (tree / litter).mkdir(parents=True)
    # In the official image Python is called so as well, and pip may install for all.
    (tree / "usr/bin/python").symlink_to("python3")
    for marker in tree.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    # The host's, copied by debootstrap.
    for path in ("etc/resolv.conf", "etc/hostname"):
        (tree / path).unlink(missing_ok=True)
