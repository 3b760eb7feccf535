"""Memory of this process: its pages made at once, how much there was, when not to tidy it up."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import numpy as np

_HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class Access(IntEnum):
    """What pages are made for: ``madvise``'s advice of that name, with Linux 5.14's numbers."""

    READ = 22
    WRITE = 23


_libc = ctypes.CDLL(None, use_errno=True)  # its calls let go of the interpreter's lock


def populate(memory: memoryview, access: Access) -> None:
    """Make the pages that ``memory`` lies in, all at once; what they hold does not change.

    One call takes about half of the time that as many page faults take. Where the kernel does not
    know it, the pages come when they are touched, as ever.

    Args:
        memory: writable bytes.
        access: ``WRITE`` makes pages of this process's own, ``READ`` brings those of a file.

    Raises:
        OSError: the pages cannot be had: there is no memory, or the file cannot be read.
    """
    if not len(memory) or not can_populate():
        return
    address = np.frombuffer(memory, np.uint8).ctypes.data
    start = address - address % mmap.PAGESIZE
    _madvise(start, address + len(memory) - start, access)


def prefer_huge_pages(mapping: mmap.mmap) -> None:
    """Have a file's pages read from disk in pieces of 2 MiB, where kernel and file system can.

    Such a piece takes one entry in a table instead of 512, now and for every later mapping for as
    long as it is in the page cache. What is there already stays as it is.
    """
    with suppress(OSError):  # a kernel without huge pages: the mapping works all the same
        mapping.madvise(mmap.MADV_HUGEPAGE)


@lru_cache
def can_populate() -> bool:
    """Whether the kernel makes pages at a process's word."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        try:
            _madvise(np.frombuffer(page, np.uint8).ctypes.data, mmap.PAGESIZE, Access.READ)
        except OSError:
            return False
    return True


def _madvise(address: int, size: int, advice: int) -> None:
    if _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(advice)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far, in bytes.

    From ``/proc/self/status``: ``getrusage`` would count what the process that started this one
    held before. 0 where there is no such file.
    """
    try:
        match = _HIGH_WATER.search(Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return 1024 * int(match.group(1)) if match else 0


@contextmanager
def collection_paused() -> Iterator[None]:
    """Keep the collector of cycles from running while very many objects are made that have none.

    It goes over all of them again and again as they grow in number: with 90,000 tensors it takes
    half of the time in which their headers are read. Two that overlap do no harm.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
