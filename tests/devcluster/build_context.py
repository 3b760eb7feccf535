"""What an image is built from: the files that ``.dockerignore`` leaves, and a key for all of it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Files are copied with this time, so that the builder's cache depends on contents alone. It is
#: within what zip files, and so wheels, can express.
_TIME = 1_000_000_000


@dataclass(frozen=True)
class _Rule:
    regex: re.Pattern[str]
    includes: bool
    first: str


class Ignore:
    """The rules of a ``.dockerignore`` file: the last one that matches decides."""

    def __init__(self, text: str) -> None:
        lines = (line.strip() for line in text.splitlines())
        self._rules = [_rule(line) for line in lines if line and not line.startswith("#")]

    def excludes(self, path: str) -> bool:
        """Whether a file or folder, relative to the context, is left out."""
        excluded = False
        for rule in self._rules:
            if rule.regex.fullmatch(path):
                excluded = not rule.includes
        return excluded

    def may_include_below(self, folder: str) -> bool:
        """Whether an exception may bring back something within an excluded folder."""
        top = folder.split("/")[0]
        return any(
            rule.includes and (rule.first == top or not re.fullmatch(r"[\w.-]+", rule.first))
            for rule in self._rules
        )


def _rule(line: str) -> _Rule:
    includes = line.startswith("!")
    pattern = os.path.normpath(line.removeprefix("!").strip()).lstrip("/")
    # What matches a folder matches all that is in it.
    return _Rule(re.compile(_translate(pattern) + r"(/.*)?"), includes, pattern.split("/")[0])


def _translate(pattern: str) -> str:
    parts = {"**/": r"(.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^]]*\]|[^*?\[]+|\[", pattern)
    return "".join(
        parts.get(token)
        or (token if token.startswith("[") and len(token) > 1 else re.escape(token))
        for token in tokens
    )


def files(context: Path) -> Iterator[str]:
    """Yields the paths, relative to the context, of all that the builder may see, in order."""
    ignore_file = context / ".dockerignore"
    ignore = Ignore(ignore_file.read_text() if ignore_file.is_file() else "")
    for folder, folders, names in os.walk(context):
        base = Path(folder).relative_to(context)
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = sorted(
            name
            for name in set(folders) - set(links)
            if not ignore.excludes(path := (base / name).as_posix())
            or ignore.may_include_below(path)
        )
        for name in sorted(names + links):
            path = (base / name).as_posix()
            if not ignore.excludes(path):
                yield path


def key(dockerfile: Path, context: Path, options: Mapping[str, str]) -> str:
    """Returns a name for exactly this build: the same inputs, the same key."""
    digest = hashlib.sha256()
    for name, value in sorted(options.items()):
        digest.update(f"{name}={value}\0".encode())
    digest.update(dockerfile.read_bytes())
    for path in files(context):
        source = context / path
        if source.is_symlink():
            entry = f"{path}\0link\0{source.readlink()}\0"
            digest.update(entry.encode())
            continue
        executable = os.access(source, os.X_OK)
        digest.update(f"{path}\0{executable}\0{source.stat().st_size}\0".encode())
        with source.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:20]


def stage(context: Path, target: Path) -> None:
    """Copies what the builder may see."""
    target.mkdir(parents=True, exist_ok=True)
    for path in files(context):
        destination = target / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(context / path, destination, follow_symlinks=False)
        os.utime(destination, (_TIME, _TIME), follow_symlinks=False)
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        os.utime(folder, (_TIME, _TIME))
