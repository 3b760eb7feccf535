"""The system's package sources, read and never changed: its mirrors and keys serve here too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.devcluster.errors import BuildError

_APT = Path("/etc/apt")


@dataclass(frozen=True)
class Source:
    """One repository.

    Attributes:
        uri: The mirror.
        suites: Such as ``bookworm`` and ``bookworm-updates``.
        components: Such as ``main``.
        signed_by: The path of its key ring, or None for the system's.
    """

    uri: str
    suites: tuple[str, ...]
    components: str
    signed_by: str | None = None

    def as_sources(self) -> str:
        """Returns the deb822 stanza that makes its source packages known."""
        lines = [
            "Types: deb-src",
            f"URIs: {self.uri}",
            f"Suites: {' '.join(self.suites)}",
            f"Components: {self.components}",
        ]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


def read() -> list[Source]:
    """Returns the sources of this system's release.

    Raises:
        BuildError: There are none.
    """
    paths = [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))]
    files = [
        (path.name, path.read_text())
        for path in paths
        if path.suffix in (".list", ".sources") and path.is_file()
    ]
    name = codename()
    sources = parse(files, name)
    if not sources:
        raise BuildError(f"/etc/apt names no mirror of {name}")
    return sources


def codename() -> str:
    """Returns the release's name, such as ``bookworm``.

    Raises:
        BuildError: The system is not Debian, or a nameless one.
    """
    match = re.search(r'^VERSION_CODENAME="?(\w+)', Path("/etc/os-release").read_text(), re.M)
    if not match:
        raise BuildError("/etc/os-release has no VERSION_CODENAME: this needs Debian 12")
    return match[1]


def mirror(sources: Iterable[Source], name: str) -> Source:
    """Returns the source that holds the release itself, not only its updates.

    Raises:
        BuildError: None does.
    """
    for source in sources:
        if name in source.suites:
            return source
    raise BuildError(f"/etc/apt names no mirror with the suite {name}")


def parse(files: Iterable[tuple[str, str]], name: str) -> list[Source]:
    """Reads sources of either format.

    Args:
        files: Name and text of each file.
        name: The release; sources of others, such as vendors' repositories, are left out.
    """
    found: dict[Source, None] = {}
    for file, text in files:
        for source in (_from_deb822 if file.endswith(".sources") else _from_lines)(text):
            if any(suite.split("-")[0] == name for suite in source.suites):
                found[source] = None
    return list(found)


def _from_deb822(text: str) -> list[Source]:
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    sources = []
    for stanza in re.split(r"\n\s*\n", plain.strip()):
        fields = {
            key.lower(): " ".join(value.split())
            for key, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.M)
        }
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false")
        if "deb" not in fields.get("types", "").split() or not enabled:
            continue
        key = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            suites = tuple(fields.get("suites", "").split())
            # A key may also stand there itself; then the system's key ring has to do.
            ring = key if key.startswith("/") else None
            sources.append(Source(uri, suites, fields.get("components", "main"), ring))
    return sources


def _from_lines(text: str) -> list[Source]:
    sources = []
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line.strip())
        if match:
            options = dict(option.partition("=")[::2] for option in (match[1] or "").split())
            suites, components = (match[3],), match[4].strip()
            sources.append(Source(match[2], suites, components, options.get("signed-by")))
    return sources
