"""What writes an entry of the node's cache: under a temporary name, while its bytes are loaded."""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import torch

from shardedmodel_runtime.loading.arena import Arena
from shardedmodel_runtime.loading.cache_disk import Disk
from shardedmodel_runtime.storage.local import TEMPORARY_PREFIX

STALE_SECONDS = 24 * 3600.0
"""Age of a temporary file that nobody writes any more, whatever its lock says: no load takes a
day."""


def nobody_waits() -> None:
    """Tell nobody that an entry is there."""


class CacheWriter:
    """One entry on its way, which appears with its last byte.

    Its file is locked as long as its process lives.

    Args:
        path: where it will be.
        size: its bytes.
        fail: told of what the folder does not take; the entry does not appear then.
        done: called once the entry is there or will not be, by the thread that finds that.
        disk: on which it is; one that hangs keeps no thread that reads.

    Raises:
        OSError: it cannot be begun.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        fail: Callable[[OSError], None],
        done: Callable[[], None] = nobody_waits,
        disk: Disk | None = None,
    ) -> None:
        self._path = path
        self._disk = disk or Disk(None, nobody_waits)
        self._size = size
        self._missing = size
        self._fail = fail
        self._done = done
        self._failed = False
        self._temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        self._lock = threading.Lock()
        self._users = 1
        self._closed = False
        self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(self._file, size)  # peers count it from now on
        except OSError:
            self.close()
            raise

    def reserve(self) -> bool:
        """Take the disk's room, so that a full one is found before reading; False: it is full.

        Apart from the beginning, since file systems that cannot do it at once write zeros.
        """
        try:
            os.posix_fallocate(self._file, 0, self._size)
        except OSError as error:
            self._give_up(error)
            self.close()
            return False
        return True

    def write(self, start: int, data: memoryview) -> None:
        """Write verified bytes at their place, each once; any thread."""
        if not self._disk.answer(lambda: self._has_written(start, data), False):
            self._failed = True
            self._done()

    def _has_written(self, start: int, data: memoryview) -> bool:
        with self._held() as is_open:
            try:
                if is_open and self._put(start, data):
                    os.replace(self._temporary, self._path)
                    self._done()
            except OSError as error:
                self._give_up(error)
        return True

    def _put(self, start: int, data: memoryview) -> bool:
        """Write bytes; gives whether all of the entry's are there, and nobody writes any more."""
        size = len(data)
        while data:
            if self._failed or self._closed:
                return False
            count = os.pwrite(self._file, data, start)
            start, data = start + count, data[count:]
        with self._lock:
            self._missing -= size
            return self._missing == 0 and not self._failed

    @contextmanager
    def _held(self) -> Iterator[bool]:
        """Keep the file open meanwhile, if it is; its number could be another file's after that."""
        with self._lock:
            is_open = self._users > 0
            self._users += is_open
        try:
            yield is_open
        finally:
            if is_open:
                self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            is_last = self._users == 0
        if is_last:
            os.close(self._file)

    def _give_up(self, error: OSError) -> None:
        if self._closed:
            return  # its load has failed, and removed the file
        self._failed = True
        self._fail(error)
        self._done()

    def close(self) -> None:
        """Take nothing more, and remove the file unless it is the entry.

        Threads of a load that has failed may still write, to a disk that may have stalled: nobody
        waits for them, and the last of them closes the file.
        """
        self._closed = True
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        self._leave()


class CachingArena:
    """An arena whose bytes are written to the cache as well, once they are verified."""

    def __init__(self, arena: Arena, writer: CacheWriter) -> None:
        self._arena = arena
        self._writer = writer

    @property
    def tensor(self) -> torch.Tensor:
        """The object whole."""
        return self._arena.tensor

    @property
    def copy_seconds(self) -> float:
        """Spent waiting for copies to the device."""
        return self._arena.copy_seconds

    def landing(self, start: int, stop: int) -> AbstractContextManager[memoryview]:
        """Give memory, and write it to the cache at the end."""
        return self._written(self._arena.landing(start, stop), start)

    def aside(self, start: int, stop: int) -> AbstractContextManager[memoryview]:
        """Give other memory, and write it to the cache at the end."""
        return self._written(self._arena.aside(start, stop), start)

    def make_room(self, memory: memoryview) -> None:
        """Make ready a part of the memory."""
        self._arena.make_room(memory)

    def finish(self) -> None:
        """Wait until every byte that landed is in ``tensor``."""
        self._arena.finish()

    @contextmanager
    def _written(
        self, landing: AbstractContextManager[memoryview], start: int
    ) -> Iterator[memoryview]:
        with landing as memory:
            yield memory
            self._writer.write(start, memory)


def is_left(path: Path, written_at: float) -> bool:
    """Whether nobody writes a temporary file any more.

    Where locks hold within one node only, that of another node's writer is taken for left: its
    load tells then that the cache failed, and goes on.

    Args:
        path: of the file.
        written_at: ``time.time()`` of the last write to it.

    Raises:
        OSError: it cannot be looked at.
    """
    if time.time() - written_at > STALE_SECONDS:
        return True
    try:
        file = os.open(path, os.O_RDONLY)
    except PermissionError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # all that NFS gives a reader
    except OSError:  # its writer lives, or there are no locks
        return False
    finally:
        os.close(file)
    return True
