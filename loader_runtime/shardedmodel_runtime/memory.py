"""How much memory a process took at most, and when not to tidy it up."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


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
