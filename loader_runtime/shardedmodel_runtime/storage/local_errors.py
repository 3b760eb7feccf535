"""From the system's errors about files to ours: who is to blame, and whether asking again helps."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from shardedmodel_runtime.errors import (
    AccessDenied,
    NotFound,
    StorageError,
    Unavailable,
    excerpt,
)

_FLAKY = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN})
"""What a network file system answers while its server is away."""


@contextlib.contextmanager
def translated(where: str, root: Path) -> Iterator[None]:
    """Turn the system's errors into ours.

    Args:
        where: the file's URI, for the message.
        root: the store's folder, which may be what is missing.
    """
    try:
        yield
    except OSError as error:
        raise _translate(error, where, root) from error


def _translate(error: OSError, where: str, root: Path) -> StorageError:
    if isinstance(error, NotADirectoryError):
        for path in (root, *root.parents):
            if path.is_file():
                return NotFound(f"{where}: {path} is a file", "name the folder that it is in")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        missing = "file" if root.is_dir() else f"folder {root}"
        return NotFound(f"{where}: the {missing} does not exist", "mount it or correct the uri")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AccessDenied(f"{where}: {excerpt(error.strerror or str(error))}")
    if error.errno in _FLAKY:
        return Unavailable(f"{where}: {excerpt(error.strerror or str(error))}")
    return StorageError(f"{where}: {excerpt(error.strerror or str(error))}")
