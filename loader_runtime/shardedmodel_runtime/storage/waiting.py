"""Waiting no longer than wanted for what may hang in the kernel.

A file system whose server is away answers no call, whatever it is (``stat``, ``open``, ``read``),
and nothing but an answer ends one. So it is made in another thread, which is left to itself when
time is over: a daemon, since it must not keep a process from ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float | None, work: Callable[[], T], late: Callable[[], Exception]) -> T:
    """Give what ``work`` gives, or raise what it raises, if it ends in time.

    Args:
        seconds: how long to wait; None: as long as it takes, in this thread.
        work: what may hang.
        late: makes the error of having waited in vain.
    """
    if seconds is None:
        return work()
    ended: SimpleQueue[tuple[T] | Exception] = SimpleQueue()

    def run() -> None:
        try:
            ended.put((work(),))
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that waits
            ended.put(error)

    threading.Thread(target=run, name="may-hang", daemon=True).start()
    try:
        result = ended.get(timeout=seconds)
    except Empty:
        raise late() from None
    if isinstance(result, Exception):
        raise result
    return result[0]
