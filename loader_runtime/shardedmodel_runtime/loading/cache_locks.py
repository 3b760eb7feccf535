"""Locks of the node's cache: the system lets each go with its holder."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress


class Release:
    """Lets go of a lock and closes its file, once, whichever threads ask for it."""

    def __init__(self, file: int) -> None:
        self._files = [file]

    def __call__(self) -> None:
        """Let go, if that has not been done."""
        with suppress(IndexError):
            let_go(self._files.pop())  # one thread pops it


def got_lock(file: int, wait_until: float, poll_seconds: float) -> bool:
    """Lock a file as soon as nobody else has it locked.

    Args:
        file: open.
        wait_until: ``time.monotonic()`` until which to wait.
        poll_seconds: between two looks.

    Returns:
        Whether it is locked; False: somebody else had it for too long.

    Raises:
        OSError: there are no locks.
    """
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= wait_until:
                return False
            time.sleep(poll_seconds)
        else:
            return True


def let_go(file: int) -> None:
    """Close a file whose lock nobody is to have any more.

    Closing alone would leave it to processes that were forked meanwhile, which have the file too.
    """
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)
