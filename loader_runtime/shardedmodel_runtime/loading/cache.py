"""A folder on the node where verified objects stay, for ranks that start again and for peers.

An entry is a whole object under its SHA-256, written under a temporary name and renamed, so a
reader finds all of it or nothing. Entries are read like objects of a layout, every block checked,
so one that went bad is dropped and read again from the store. A lock file for each object, which
the system lets go with its holder, makes one rank of a node fetch what others wait for. What the
folder cannot take (a full disk, no right to write) is not cached, and told: it never fails a load.

On file systems of the node's own an entry is mapped rather than copied (``storage/mapping.py``), so
ranks of a node hold one copy of what they share, and each its own of what it changes.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from shardedmodel_runtime.errors import excerpt
from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.loading.cache_disk import Disk
from shardedmodel_runtime.loading.cache_locks import Release, got_lock, let_go
from shardedmodel_runtime.loading.cache_writer import CacheWriter, is_left, nobody_waits
from shardedmodel_runtime.report import CACHE_TROUBLE
from shardedmodel_runtime.storage.local import TEMPORARY_PREFIX

logger = logging.getLogger(__name__)

LOCK_MODE = 0o666
"""Of new files that are nothing but locked: no programs, and for others as the umask says."""
LOCK_SUFFIX = ".lock"
"""Of files that stay, empty, when their entries have given way: were one removed while a peer waits
for it, that peer and whoever makes it anew would both have a lock, and both fetch the object."""
POLL_SECONDS = 0.05
"""Between two looks whether a peer has let go of an object."""
ROOM_LOCK = "room.lock"
"""Of the folder: held while one process makes room and takes it."""
ROOM_POLL_SECONDS = 0.005
"""Between two looks at it: it is held for as long as listing the folder takes."""
ROOM_SECONDS = 5.0
"""Longest wait for it: who has removed files for longer hangs, and a load goes on without the
cache, which it waits for this once."""
WORTH_SHARING_BYTES = 16 * 1024 * 1024
"""Of an object that ranks of a pod share: a smaller one, of less than a block, is read before its
other reader would have been waited for."""
FOLDER_LIMIT = 512
"""Characters kept of the folder in a message: half of what a rank's report takes as one."""

_ENTRY = re.compile(r"[0-9a-f]{64}")


class NodeCache:
    """Verified objects in a folder, the least recently used of which give way.

    Args:
        folder: where entries are; made if it is not there.
        limit_bytes: of all entries together; None: what the disk holds.
        peers: ranks, of which only what several hold is kept; empty: everything is.
        deadline: ``time.monotonic()`` by which the load has to end; None: never. Each answer of the
            disk is waited for half of what it leaves.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int | None,
        peers: Collection[int] = (),
        deadline: float | None = None,
    ) -> None:
        self.folder = folder
        self.error = ""
        self.disk = Disk(deadline, self._hung)
        self._warned = False
        self._limit = limit_bytes
        self._peers = frozenset(peers)
        try:
            self.folder = self.disk.answer(lambda: _made(folder), folder)
        except OSError as error:
            self.fail(error)

    @property
    def is_of_peers(self) -> bool:
        """Whether it keeps only what several ranks of one pod hold."""
        return bool(self._peers)

    def fail(self, error: OSError) -> None:
        """Go on without the cache, and say why once."""
        if not self.error:
            reason = excerpt(error.strerror or str(error))
            folder = excerpt(str(self.folder), FOLDER_LIMIT)
            self.error = f"{CACHE_TROUBLE}{folder}: {reason}; loading goes on without it"
            logger.warning("%s", self.error)

    def give_up(self) -> None:
        """Ask the folder for nothing any more: its disk does not answer."""
        self.disk.give_up()

    def _hung(self) -> None:
        self.fail(TimeoutError("its disk did not answer in time"))

    def expect(self, items: Sequence[LayoutObject]) -> None:
        """Warn once where each of the objects is too large for it, so that it keeps none."""
        if self._limit is None or self.is_of_peers or self._warned:
            return
        smallest = min(item.bytes for item in items)
        if smallest > self._limit:
            self._warned = True
            logger.warning(
                "cache_bytes: %d: nothing is kept, as the smallest of this rank's objects has %d "
                "bytes; give the cache room for all of them, %d bytes",
                self._limit,
                smallest,
                sum(item.bytes for item in items),
            )

    def keeps(self, item: LayoutObject) -> bool:
        """Whether ``item`` is one that the cache is for; what is not is waited for by nobody."""
        if self._limit is not None and item.bytes > self._limit:
            return False
        if not self._peers:
            return True
        several = len(self._peers.intersection(item.ranks)) > 1
        return several and item.bytes >= WORTH_SHARING_BYTES

    def holds(self, item: LayoutObject) -> bool:
        """Whether there is an entry for ``item``, then the latest used if that can be kept."""
        entry = self.folder / item.sha256
        return self.keeps(item) and self.disk.answer(lambda: _is_used(entry, item.bytes), False)

    def drop(self, item: LayoutObject) -> None:
        """Remove an entry that is not what it should be."""
        with suppress(OSError):
            self.disk.answer((self.folder / item.sha256).unlink, None)

    @contextmanager
    def lock(self, item: LayoutObject, wait_until: float) -> Iterator[Release | None]:
        """Keep others of the node from fetching ``item``.

        Args:
            item: the object.
            wait_until: ``time.monotonic()`` until which to wait for another holder.

        Yields:
            What lets go of the lock before the end; None: it was not got, and nothing should be
            written.
        """
        path, file = self.folder / f"{item.sha256}{LOCK_SUFFIX}", None
        try:
            file = self.disk.answer(lambda: os.open(path, os.O_RDWR | os.O_CREAT, LOCK_MODE), None)
        except OSError as error:
            self.fail(error)
        if file is None:
            yield None
            return
        release = Release(file)
        try:
            yield release if self._locked(file, wait_until) else None
        finally:
            release()

    def _locked(self, file: int, wait_until: float) -> bool:
        try:
            return got_lock(file, wait_until, POLL_SECONDS)
        except OSError as error:  # a file system without locks
            self.fail(error)
            return False

    @contextmanager
    def writer(
        self, item: LayoutObject, done: Callable[[], None] = nobody_waits
    ) -> Iterator[CacheWriter | None]:
        """Begin an entry, which is removed at the end unless it is whole.

        Args:
            item: the object.
            done: called once the entry is there or will not be, by any thread and perhaps again.

        Yields:
            What writes it; None: there is no room, or ``item`` is not kept.
        """
        writer = self._begin(item, done)
        if writer is None:
            done()
        try:
            yield writer
        finally:
            if writer is not None:
                self.disk.end(writer.close)

    def _begin(self, item: LayoutObject, done: Callable[[], None]) -> CacheWriter | None:
        if self.error or not self.keeps(item):
            return None
        try:
            return self.disk.answer(lambda: self._begun(item, done), None)
        except OSError as error:
            self.fail(error)
            return None

    def _begun(self, item: LayoutObject, done: Callable[[], None]) -> CacheWriter | None:
        with self._room_locked():
            if not self._make_room(item.bytes):
                return None
            path = self.folder / item.sha256
            writer = CacheWriter(path, item.bytes, self.fail, done, self.disk)
        if not writer.reserve():
            return None
        if self.disk.hangs:  # it came too late for its load
            writer.close()
            return None
        return writer

    @contextmanager
    def _room_locked(self) -> Iterator[None]:
        """Let nobody else count what is there until what was found free is taken."""
        file = os.open(self.folder / ROOM_LOCK, os.O_RDWR | os.O_CREAT, LOCK_MODE)
        try:
            if not got_lock(file, time.monotonic() + ROOM_SECONDS, ROOM_POLL_SECONDS):
                raise TimeoutError(
                    f"another process has kept {ROOM_LOCK} locked for {ROOM_SECONDS:g} s"
                )
            yield
        finally:
            let_go(file)

    def _make_room(self, size: int) -> bool:
        """Remove what killed writers left, and the least recently used entries beyond the limit.

        Returns:
            Whether there is room, beside what others are about to write.
        """
        held = 0
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # a peer makes room too
                state = path.stat()
                if path.name.startswith(TEMPORARY_PREFIX):
                    if is_left(path, state.st_mtime):
                        path.unlink()
                    else:
                        held += state.st_size
                elif _ENTRY.fullmatch(path.name):
                    entries.append((state.st_atime, state.st_size, path))
        if self._limit is None:
            return True
        if held + size > self._limit:
            return False
        held += sum(entry_size for _, entry_size, _ in entries)
        for _, entry_size, path in sorted(entries):
            if held + size <= self._limit:
                break
            path.unlink(missing_ok=True)
            held -= entry_size
        return True


def _made(folder: Path) -> Path:
    """Make a folder, and give where it is; ``Path.resolve`` raises where links are a circle."""
    folder = Path(os.path.realpath(folder))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_used(entry: Path, size: int) -> bool:
    """Note the use of an entry, unless it is not there or has another size.

    The time of its last change stays: peers that are reading it would take it for another.
    """
    try:
        file = os.open(entry, os.O_RDONLY)
    except OSError:
        return False
    try:
        state = os.fstat(file)
        if state.st_size != size:
            return False
        with suppress(OSError):  # of a folder that may be read, but not written
            os.utime(file, ns=(time.time_ns(), state.st_mtime_ns))
        return True
    finally:
        os.close(file)
