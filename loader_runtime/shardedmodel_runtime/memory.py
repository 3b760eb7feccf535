"""How much memory a process took at most."""

from __future__ import annotations

import re
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
