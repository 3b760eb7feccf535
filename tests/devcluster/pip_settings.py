"""The host's pip settings, for builds: where packages come from, without naming any place.

They are mounted into the build, read-only, and leave nothing in the image.
"""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.devcluster.shell import run

#: Where pip in the image looks for settings of the whole system.
CONFIG = Path("/etc/pip.conf")

#: Debian's folder of authorities; an organisation's own is added to it on the host.
_CERTIFICATES = Path("/etc/ssl/certs")

#: Those settings that say where packages come from and how they are fetched. Others, such as
#: ``user`` or ``target``, say how the host installs and would break an image.
_FETCHING = (
    "cert",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "no-index",
    "proxy",
    "retries",
    "timeout",
    "trusted-host",
)


def parse(listing: str) -> dict[str, str]:
    """Returns the settings in what ``pip config list`` prints; the environment's win."""
    settings: dict[str, str] = {}
    environment: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if option not in _FETCHING or section not in ("global", "install", ":env:"):
            continue
        chosen = environment if section == ":env:" else settings
        chosen[option] = str(ast.literal_eval(value))
    return settings | environment


def read() -> dict[str, str]:
    """Returns the host's settings that matter to a build."""
    return parse(run([sys.executable, "-m", "pip", "config", "list"]))


def local_paths(settings: Mapping[str, str]) -> list[Path]:
    """Returns the folders and files of this machine that the settings point at.

    The pages of an index commonly link to files beside it, such as ``../../files/…``, so of an
    index it is the folder around it.
    """
    found: dict[Path, None] = {}
    for option in ("find-links", "extra-index-url", "index-url", "cert"):
        for word in settings.get(option, "").split():
            parts = urlsplit(word)
            if parts.scheme != "file" and not word.startswith("/"):
                continue
            path = Path(unquote(parts.path))
            around = path.parent if option.endswith("index-url") else path
            # Never the image's own root.
            found[around if around != Path("/") else path] = None
    return [path for path in found if path.exists()]


def volumes(settings: Mapping[str, str], config: Path) -> list[str]:
    """Writes the settings to a file and returns the volumes that show them to a build.

    Args:
        settings: As :func:`read` returns them.
        config: The file to write; it may hold credentials, so only its owner may read it.
    """
    parser = configparser.RawConfigParser()
    parser["global"] = {name: "\n".join(value.split()) for name, value in settings.items()}
    config.touch(mode=0o600)
    with config.open("w") as file:
        parser.write(file)
    mounts = {CONFIG: config}
    if _CERTIFICATES.is_dir():
        mounts[_CERTIFICATES] = _CERTIFICATES
    for path in local_paths(settings):
        if not path.is_relative_to(_CERTIFICATES):
            mounts[path] = path.resolve()
    return [f"--volume={source}:{target}:ro" for target, source in mounts.items()]
