"""Debian's source package of Kubernetes, through an apt state of the project's own."""

from __future__ import annotations

from pathlib import Path

from tests.devcluster import apt_sources
from tests.devcluster.errors import BuildError
from tests.devcluster.settings import cache_home
from tests.devcluster.shell import Progress, run, run_long


def _apt_options() -> list[str]:
    """Returns the options that point apt at this project's lists, caches and sources."""
    root = cache_home() / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    sources = root / "kubernetes.sources"
    sources.write_text("\n".join(source.as_sources() for source in apt_sources.read()))
    settings = {
        "Dir::Etc::SourceList": str(sources),
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": str(root / "lists"),
        "Dir::Cache": str(root),
        # apt's own user may not read below a home directory.
        "APT::Sandbox::User": "root",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def fetch(folder: Path, log: Path, progress: Progress) -> tuple[Path, str]:
    """Downloads and unpacks the sources; apt verifies their signature.

    Returns:
        The root of the source tree, and its version.

    Raises:
        BuildError: The package is not there, or holds something else than expected.
        CommandError: apt-get or tar failed.
    """
    options = _apt_options()
    run_long("fetching the list of sources", ["apt-get", *options, "update"], log, progress)
    run_long(
        "fetching the sources of Kubernetes",
        ["apt-get", *options, "source", "--download-only", "kubernetes"],
        log,
        progress,
        cwd=folder,
    )
    archives = list(folder.glob("kubernetes_*.orig.tar.gz"))
    if len(archives) != 1:
        raise BuildError(f"apt-get source left {len(archives)} archives in {folder}, not one")
    tree = folder / "kubernetes"
    tree.mkdir()
    run(["tar", "-xzf", archives[0], "-C", tree, "--strip-components=1"])
    return tree, upstream_version(archives[0].name)


def upstream_version(archive: str) -> str:
    """Reads the version from an archive's name, such as ``…_1.20.5+really1.20.2.orig.tar.gz``."""
    return archive.rpartition("_")[2].removesuffix(".orig.tar.gz").rpartition("really")[2]
