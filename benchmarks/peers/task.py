"""What every loader is given, and the memory that some of them fill."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

RANGE_BYTES = 16 * 1024 * 1024
"""Of every loader that lets one choose: the block of a layout."""
THREADS = 8
"""Of every loader that lets one choose; the raw limit takes its best number of threads."""
PAGE_BYTES = 4096
"""Of the kernel's memory on x86-64: one touch in each makes it, or reads it from a mapped file."""


@dataclass(frozen=True)
class Task:
    """What is to be loaded.

    Args:
        layout: URI of the layout; its objects lie directly below.
        endpoint_url: of the server; empty for files.
        keys: of the objects, relative to the layout.
        sizes: of the objects in bytes.
        certificate: file that clients have to trust; empty without TLS.
        threads: for loaders that take their best number.
    """

    layout: str
    endpoint_url: str
    keys: list[str]
    sizes: list[int]
    certificate: str = ""
    threads: int = THREADS

    @property
    def uris(self) -> list[str]:
        """Addresses of the objects."""
        return [f"{self.layout}/{key}" for key in self.keys]

    @property
    def paths(self) -> list[str]:
        """Paths of the objects, for files."""
        return [uri.removeprefix("file://") for uri in self.uris]

    @property
    def bucket(self) -> str:
        """The layout's bucket."""
        return urlsplit(self.layout).netloc

    @property
    def prefix(self) -> str:
        """The layout's keys begin so."""
        return urlsplit(self.layout).path.lstrip("/")

    @property
    def total(self) -> int:
        """Bytes of all objects."""
        return sum(self.sizes)

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Every range: the object's number, where the range begins, and where it ends."""
        for number, size in enumerate(self.sizes):
            for start in range(0, size, RANGE_BYTES):
                yield number, start, min(start + RANGE_BYTES, size)


Load = Callable[[], object]
"""Loads everything, and gives what holds it."""


def evict(paths: Iterable[str]) -> None:
    """Take files out of the page cache, so that the next loader reads them there in its own way."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # pages that are not written yet would stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def buffers(task: Task, prefault: bool = False) -> list[memoryview]:
    """Memory for every object; with ``prefault`` its pages are there already."""
    made = [memoryview(mmap.mmap(-1, size)) for size in task.sizes]
    for buffer in made if prefault else ():
        buffer[::PAGE_BYTES] = bytes(len(buffer[::PAGE_BYTES]))
    return made


def fill(into: memoryview, read: Callable[[memoryview], int]) -> None:
    """Read until memory is full."""
    while into:
        count = read(into)
        if count == 0:
            raise ConnectionError("the answer ended early")
        into = into[count:]
