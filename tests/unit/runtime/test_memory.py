from __future__ import annotations

import errno
import gc
import mmap
import re
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest

from shardedmodel_runtime.memory import Access, collection_paused, populate, prefer_huge_pages


def test_the_collector_rests_and_goes_on() -> None:
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_goes_on_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), collection_paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_a_collector_that_rested_before_rests_on() -> None:
    with collection_paused():
        with collection_paused():
            pass
        assert not gc.isenabled()


def resident_bytes(memory: mmap.mmap) -> int:
    """How much of a mapping has pages (proc(5), ``/proc/[pid]/smaps``)."""
    address = np.frombuffer(memory, np.uint8).ctypes.data
    entry = Path("/proc/self/smaps").read_text().partition(f"{address:x}-")[2]
    match = re.search(r"^Rss: +(\d+) kB$", entry, re.MULTILINE)
    assert match is not None
    return 1024 * int(match.group(1))


def test_pages_are_made_for_what_is_asked_and_no_more() -> None:
    page = mmap.PAGESIZE
    # A file's, since the system joins anonymous mappings that lie side by side.
    with TemporaryFile() as file:
        file.truncate(16 * page)
        memory = mmap.mmap(file.fileno(), 16 * page, mmap.MAP_PRIVATE)
        populate(memoryview(memory)[5 * page + 1 : 7 * page + 1], Access.WRITE)
        assert resident_bytes(memory) == 3 * page


@pytest.mark.parametrize("access", list(Access))
def test_making_pages_changes_nothing(access: Access) -> None:
    memory = bytearray(b"0123456789")
    populate(memoryview(memory), access)
    assert memory == b"0123456789"


def test_nothing_needs_no_pages() -> None:
    populate(memoryview(bytearray()), Access.WRITE)


def test_what_a_file_holds_stays_where_huge_pages_are_preferred() -> None:
    with TemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        mapping = mmap.mmap(file.fileno(), 10, mmap.MAP_PRIVATE)
        prefer_huge_pages(mapping)
        assert mapping[:] == b"0123456789"


def test_a_kernel_without_huge_pages_maps_files_all_the_same() -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, "no such advice")

    prefer_huge_pages(Refusing(-1, mmap.PAGESIZE))
