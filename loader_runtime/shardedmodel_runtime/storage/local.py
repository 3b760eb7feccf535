"""A folder as a store: a mounted volume, a disk.

Files appear whole or not at all: they are written under a temporary name in the same folder,
flushed to the disk and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from shardedmodel_runtime.errors import NotFound, SourceChanged, Unavailable
from shardedmodel_runtime.storage.base import (
    CountingStore,
    ObjectInfo,
    checked_key,
    too_large,
    too_short,
)
from shardedmodel_runtime.storage.local_errors import translated
from shardedmodel_runtime.storage.reading import Reading
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.uri import StoreUri

TEMPORARY_PREFIX = ".tmp-"
"""Of names that are not objects yet; hidden, and never listed."""
SLICE_BYTES = 16 * 1024 * 1024
"""Read between two looks whether the bytes are still wanted: a block of a layout."""
CREATE_ATTEMPTS = 5
"""How often a folder is made for a file: only a deletion in that very moment takes it away."""
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
"""What file systems without hard links answer (FAT, some FUSE and SMB mounts)."""


class LocalStore(CountingStore):
    """Files under one folder, which need not exist before the first write.

    Args:
        uri: the folder; ``root`` is its path.
        retry: when to read again: a network file system's server may be away for a moment.
    """

    def __init__(self, uri: StoreUri, retry: RetryPolicy | None = None) -> None:
        super().__init__()
        self._retry = retry or RetryPolicy()
        self.uri = str(uri)
        self.root = Path(uri.path)

    def require_root(self) -> None:
        """Nothing: the folder is made at the first write."""

    def describe(self, key: str) -> ObjectInfo:
        """Describe one file."""
        self.count(requests=1)
        with self.translated(key):
            state = os.stat(self.path(key))
            return self.info(key, state)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Describe the files directly in folder ``prefix``."""
        self.count(requests=1)
        folder = self.path(prefix.rstrip("/")) if prefix else self.root
        with self.translated(prefix):
            return sorted(
                (
                    self.info(prefix + entry.name, entry.stat())
                    for entry in os.scandir(folder)
                    if entry.is_file() and not entry.name.startswith(TEMPORARY_PREFIX)
                ),
                key=lambda info: info.key,
            )

    def folders(self) -> Sequence[str]:
        """Names of the folders directly below this one; none where it is not there."""
        self.count(requests=1)
        try:
            with self.translated(""):
                return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        except NotFound:
            return []

    def read(self, key: str, *, limit: int, digest: str | None = None) -> bytes:
        """Read a small file whole."""
        info = self.describe(key)
        if info.size > limit:
            raise too_large(f"{self.uri}/{key}", info.size, limit)
        data = bytearray(info.size)
        self.read_range(key, 0, memoryview(data), digest=digest or info.digest)
        return bytes(data)

    def read_head(self, key: str, limit: int) -> tuple[ObjectInfo, bytes]:
        """Describe a file and read its beginning; it is described again after the read."""
        info = self.describe(key)
        data = bytearray(min(info.size, limit))
        self.read_range(key, 0, memoryview(data), digest=info.digest)
        return info, bytes(data)

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        """Fill ``into`` from ``start`` on; the digest is compared after the bytes were read."""
        reading = reading or Reading()
        self.retried(lambda: self._read_once(key, start, into, digest, reading), reading)

    def _read_once(
        self, key: str, start: int, into: memoryview, digest: str | None, reading: Reading
    ) -> None:
        self.count(requests=1)
        filled = 0
        with self.translated(key), open(self.path(key), "rb", buffering=0) as file:
            before = self.info(key, os.fstat(file.fileno()))
            with reading.landing(before.digest, lambda: None):
                while filled < len(into):
                    piece = into[filled : filled + SLICE_BYTES]
                    reading.coming(piece)
                    count = os.preadv(file.fileno(), [piece], start + filled)
                    self.count(received=count)
                    reading.check()
                    if count == 0:
                        break
                    filled += count
            state = self.info(key, os.fstat(file.fileno()))
        if state.digest != (digest or before.digest):
            raise SourceChanged(f"{self.uri}/{key}: the file changed while it was being read")
        if filled < len(into):
            raise too_short(f"{self.uri}/{key}", state.size, start + len(into))

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write a small file at once."""
        writer = self.open_writer(key, len(data), max(len(data), 1))
        try:
            writer.write_part(0, data)
            return writer.publish(if_absent=if_absent)
        finally:
            writer.abort()

    def open_writer(self, key: str, size: int, part_bytes: int) -> LocalWriter:
        """Begin a file of ``size`` bytes under a temporary name."""
        self.count(requests=1)
        with self.translated(key):
            return LocalWriter(self.path(key), size, part_bytes)

    def delete(self, key: str) -> None:
        """Delete one file, and what it leaves empty of the store's folders, the root too."""
        self.count(requests=1)
        path = self.path(key)
        with self.translated(key):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something is left in it, or it is a mount
            while path != self.root:
                path = path.parent
                path.rmdir()

    def drop_unfinished(self) -> None:
        """Delete the temporary files under the folder."""
        self.count(requests=1)
        with self.translated(""):
            for path in self.root.rglob(f"{TEMPORARY_PREFIX}*"):
                path.unlink(missing_ok=True)

    def retried(self, action: Callable[[], None], reading: Reading) -> None:
        """Read a part of a file, and again while its server is away."""

        def repeated(error: Unavailable) -> None:
            reading.failed(error)
            self.repeated(error)

        self._retry.run(action, repeated, reading.sleep)

    def path(self, key: str) -> Path:
        """Give the file of an object.

        Raises:
            ConfigurationError: the key is not a plain relative path.
        """
        return self.root / checked_key(key)

    def info(self, key: str, state: os.stat_result) -> ObjectInfo:
        """Describe a file by its state.

        Raises:
            NotFound: it is no file.
        """
        if not stat.S_ISREG(state.st_mode):
            raise NotFound(f"{self.uri}/{key}: is not a file")
        return ObjectInfo(key, state.st_size, f"stat:{state.st_size}-{state.st_mtime_ns}")

    def translated(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Turn the system's errors about an object into ours."""
        return translated(f"{self.uri}/{key}" if key else self.uri, self.root)


class LocalWriter:
    """A file on its way: parts go to their offsets in a temporary file beside the final one."""

    def __init__(self, path: Path, size: int, part_bytes: int) -> None:
        self.part_bytes = part_bytes
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._users = 1  # the writer itself, and each part that is being written
        self._temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        self._file = _create(self._temporary)
        try:
            os.truncate(self._file, size)
        except OSError:  # a size that the file system does not take
            self.abort()
            raise

    def write_part(self, index: int, data: bytes | bytearray) -> None:
        """Write one part at its place."""
        with translated(f"file://{self._path}", self._path.parent):
            view, offset = memoryview(data), index * self.part_bytes
            with self._using() as file:
                while view:
                    count = os.pwrite(file, view, offset)
                    view, offset = view[count:], offset + count

    def commit(self) -> None:
        """Flush to the disk and rename."""
        self.publish(if_absent=False)

    def publish(self, *, if_absent: bool) -> bool:
        """Commit, or leave a file that is there already; False says that there was one."""
        with translated(f"file://{self._path}", self._path.parent):
            os.fsync(self._file)
            self._close()
            if if_absent:
                return self._publish_if_absent()
            os.replace(self._temporary, self._path)
            return True

    def _publish_if_absent(self) -> bool:
        try:
            os.link(self._temporary, self._path)  # fails where rename would replace
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if self._path.exists():
                return False
            os.replace(self._temporary, self._path)
        return True

    def abort(self) -> None:
        """Close and delete the temporary file."""
        self._close()
        self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _using(self) -> Iterator[int]:
        """Keep the file open for a part: another may get the number of one that was closed."""
        with self._lock:
            if self._closed:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            self._users += 1
        try:
            yield self._file
        finally:
            self._leave()

    def _close(self) -> None:
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            os.close(self._file)


def _create(path: Path) -> int:
    """Open a new file, in a folder that a deletion may remove while it is still empty."""
    for _ in range(CREATE_ATTEMPTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
