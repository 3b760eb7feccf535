"""Files as memory: their pages are mapped where they lie instead of being copied.

A page that is in the page cache costs an entry in a table then, a copy of it costs the same page
once more and the time to clear it; and all ranks of a node that map one file share its pages. Only
on file systems that are this node's own: a page of a network file system that has to be read again
would stall, or end the process, at any later access.
"""

from __future__ import annotations

import mmap
import os
import re
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

from shardedmodel_runtime.errors import NotFound, SourceChanged, Unavailable, excerpt
from shardedmodel_runtime.memory import Access, can_populate, populate, prefer_huge_pages
from shardedmodel_runtime.storage.base import ObjectInfo, too_short
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.reading import Reading

NODE_FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "f2fs", "tmpfs"})
"""Types, as ``/proc/self/mountinfo`` has them, whose pages come from this node's memory or block
devices. Not overlay and FUSE, below which there may be a network; nor btrfs, whose subvolumes have
device numbers that mountinfo does not tell."""
_MOUNT = re.compile(r"^\S+ \S+ (\d+:\d+) .* - (\S+) ", re.MULTILINE)
"""A mount's device and type (proc(5), ``/proc/[pid]/mountinfo``)."""


class MappedStore:
    """Objects of a folder as memory. What lands in a mapping is brought there, not copied.

    Mappings are private: who writes to one changes a copy of the page, never the file. Objects of a
    layout are never modified in place (they are published by renaming), which a mapping relies on.

    A mount or a link below the folder may lead to another file system. What lies on one that is not
    the node's own is not mapped: it has memory instead, into which it is read.

    Args:
        files: the folder; counts what is read.
    """

    def __init__(self, files: LocalStore) -> None:
        self.uri = files.uri
        self._files = files
        self._mapped: dict[str, tuple[int, ObjectInfo]] = {}
        self._read: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file, _ in self._mapped.values():
            os.close(file)

    def map(self, key: str, size: int) -> mmap.mmap:
        """Map an object; nothing of it is read yet.

        Args:
            key: of the object.
            size: its bytes, more than none.

        Returns:
            Its bytes, writable; they live as long as somebody uses them.

        Raises:
            NotFound: it is not there.
            StorageError: it is shorter, or cannot be opened.
        """
        with self._files.translated(key):
            # What is no file, a pipe say, would be waited for without end.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            file = os.open(self._files.path(key), flags)
            try:
                state = self._files.info(key, os.fstat(file))
            except NotFound:
                os.close(file)
                raise
            self._mapped[key] = file, state
            if state.size < size:
                raise too_short(f"{self.uri}/{key}", state.size, size)
            if not self._is_mapped_where_it_lies(file):
                self._read.add(key)
                return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            mapping = mmap.mmap(file, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
            prefer_huge_pages(mapping)
            return mapping

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        """Bring the pages of ``into``, which is the mapping from ``start`` on."""
        reading = reading or Reading()
        if key in self._read:
            digest = digest or self._mapped[key][1].digest
            self._files.read_range(key, start, into, digest=digest, reading=reading)
            return
        self._files.retried(lambda: self._read_once(key, into, digest, reading), reading)

    def _is_mapped_where_it_lies(self, file: int) -> bool:
        """Whether a file is on the folder's own file system, which ``can_map`` saw, or another."""
        device = os.fstat(file).st_dev
        return device == _device_of(self._files.root) or _is_of_node(device)

    def _read_once(self, key: str, into: memoryview, digest: str | None, reading: Reading) -> None:
        self._files.count(requests=1)
        file, mapped = self._mapped[key]
        failure: OSError | None = None
        with self._files.translated(key), reading.landing(mapped.digest, lambda: None):
            try:
                populate(into, Access.READ)
                self._files.count(received=len(into))
            except OSError as error:  # of a file that was cut short as well
                failure = error
            state = self._files.info(key, os.fstat(file))
        if state.digest != (digest or mapped.digest):
            raise SourceChanged(f"{self.uri}/{key}: the file changed while it was being read")
        if failure is not None:
            raise Unavailable(
                f"{self.uri}/{key}: its pages cannot be read: {excerpt(str(failure))}"
            ) from failure


def can_map(folder: Path) -> bool:
    """Whether files below ``folder`` may be mapped: the node's own, and a kernel that populates."""
    try:
        return can_populate() and _is_of_node(_device_of(folder))
    except OSError:
        return False


def _device_of(folder: Path) -> int:
    return folder.stat().st_dev


def _is_of_node(device: int) -> bool:
    """Whether a device's file system is this node's own."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return False
    return _type_of(device, mounts) in NODE_FILE_SYSTEMS


@lru_cache
def _type_of(device: int, mounts: str) -> str:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((kind for found, kind in _MOUNT.findall(mounts) if found == wanted), "")
