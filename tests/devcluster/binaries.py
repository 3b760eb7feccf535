"""Kubernetes' own programs: found where the user keeps them, or built from Debian's sources."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.devcluster import kubernetes_source, packages
from tests.devcluster.errors import BuildError, MissingError
from tests.devcluster.settings import cache_home, kubebuilder_assets
from tests.devcluster.shell import Progress, lock, run, run_long

#: What the source package of Debian 12 holds; a stable release does not change it.
DEBIAN_VERSION = (1, 20, 2)

#: All that is built: without the API server's companions there are no pods.
BUILT = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)

#: Kubernetes supports a kubelet up to three minor versions older than the API server.
MAX_SKEW = 3

#: Go map iterators changed with Go 1.18; the vendored reflect2 1.0.1 reads them the old way, and
#: the API server dies of SIGSEGV within minutes. Debian's 1.0.2 knows both.
_REFLECT2 = "github.com/modern-go/reflect2"

Version = tuple[int, int]


@dataclass(frozen=True)
class Binaries:
    """The programs that a cluster runs, and the version that they report."""

    paths: dict[str, Path]
    versions: dict[str, Version]

    def __getitem__(self, name: str) -> Path:
        return self.paths[name]

    def version(self, name: str) -> Version:
        """Returns major and minor version of one of Kubernetes' programs."""
        return self.versions[name]


def cache_folder() -> Path:
    """Returns where the built programs lie."""
    return cache_home() / "kubernetes" / ("v" + ".".join(map(str, DEBIAN_VERSION)))


def parse_version(text: str) -> Version:
    """Reads major and minor from what ``kube-apiserver --version`` prints.

    Raises:
        BuildError: The text holds no version.
    """
    match = re.search(r"v(\d+)\.(\d+)\.", text)
    if not match:
        raise BuildError(f"{text.strip()!r} holds no version of Kubernetes")
    return int(match[1]), int(match[2])


def locate(names: Iterable[str]) -> Binaries:
    """Finds programs: first in KUBEBUILDER_ASSETS, then in the cache, then in PATH.

    Raises:
        MissingError: One is nowhere, or they are of versions that do not work together.
    """
    paths = {name: found for name in names if (found := _find(name))}
    missing = sorted(set(names) - set(paths))
    if missing:
        raise MissingError(f"not found: {', '.join(missing)}")
    versions = {
        name: parse_version(run([path, "--version"]))
        for name, path in paths.items()
        if name in BUILT
    }
    check_skew(versions)
    return Binaries(paths, versions)


def _find(name: str) -> Path | None:
    folders = [folder for folder in (kubebuilder_assets(), cache_folder()) if folder]
    for folder in folders:
        if os.access(folder / name, os.X_OK):
            return folder / name
    found = shutil.which(name)
    return Path(found) if found else None


def is_found(name: str) -> bool:
    """Whether a program is there without installing or building anything."""
    return _find(name) is not None


def to_build(names: Iterable[str]) -> list[str]:
    """Returns those of Kubernetes' programs that are nowhere."""
    return [name for name in names if name in BUILT and not is_found(name)]


def check_skew(versions: dict[str, Version]) -> None:
    """Refuses programs that are too far from the API server's version.

    Raises:
        MissingError: Names the program and what to do.
    """
    server = versions.get("kube-apiserver")
    if server is None:
        return
    for name, version in versions.items():
        if version[0] != server[0] or abs(version[1] - server[1]) > MAX_SKEW:
            raise MissingError(
                f"{name} is {version[0]}.{version[1]}, kube-apiserver is {server[0]}.{server[1]}: "
                f"put a fitting {name} into KUBEBUILDER_ASSETS, or use --control-plane-only"
            )


def ensure(names: Iterable[str], progress: Progress) -> Binaries:
    """Finds the programs, after building those of Kubernetes that are nowhere.

    Raises:
        BuildError: Building failed.
        MissingError: One cannot be had.
    """
    names = list(names)
    if to_build(names):
        build(progress)
    return locate(names)


def build(progress: Progress) -> None:
    """Builds Kubernetes from Debian's source package into the cache; some nine minutes, once.

    A second build at the same time waits for the first and then finds its result.

    Raises:
        BuildError: The sources are not what is expected here.
        CommandError: A step failed.
    """
    folder = cache_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.parent / ".lock", "another build of Kubernetes", progress):
        if folder.is_dir():
            return
        packages.ensure(packages.KUBERNETES_BUILD, progress)
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder.parent) as work:
            built = _compile(Path(work), progress)
            # The rename makes the result appear whole or not at all.
            built.rename(folder)


def _compile(work: Path, progress: Progress) -> Path:
    log = cache_home() / "logs" / "kubernetes-build.log"
    log.unlink(missing_ok=True)
    tree, version = kubernetes_source.fetch(work, log, progress)
    _check_version(version)
    reflect2 = tree / "vendor" / _REFLECT2
    shutil.rmtree(reflect2)
    shutil.copytree(Path("/usr/share/gocode/src") / _REFLECT2, reflect2)
    major, minor, patch = DEBIAN_VERSION
    environment = {
        "KUBE_GIT_VERSION": f"v{major}.{minor}.{patch}",
        "KUBE_GIT_MAJOR": str(major),
        "KUBE_GIT_MINOR": str(minor),
        "KUBE_GIT_COMMIT": "0",
        "KUBE_GIT_TREE_STATE": "archive",
        "CGO_ENABLED": "0",
        "GO111MODULE": "auto",
        "GOCACHE": str(work / "gocache"),
    }
    run_long(
        f"building Kubernetes {major}.{minor}.{patch} (some 9 minutes on two cores, once)",
        ["make", "all", "WHAT=" + " ".join(f"cmd/{name}" for name in BUILT)],
        log,
        progress,
        env=environment,
        cwd=tree,
    )
    result = work / "result"
    result.mkdir()
    for name in BUILT:
        shutil.copy2(tree / "_output" / "bin" / name, result / name)
    return result


def _check_version(found: str) -> None:
    wanted = ".".join(map(str, DEBIAN_VERSION))
    if found != wanted:
        raise BuildError(
            f"Debian's source package holds Kubernetes {found}, not {wanted}: "
            "this needs Debian 12, or KUBEBUILDER_ASSETS with all programs"
        )
