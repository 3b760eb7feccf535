"""What is different for a container's main process, which is process 1 of its namespace.

It inherits the orphans of all others, and a signal that it has no handler for does nothing: the
kernel does not end process 1 by default (pid_namespaces(7)).
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

from shardedmodel_runtime.errors import Terminated


def is_init() -> bool:
    """Whether this is process 1."""
    return os.getpid() == 1


def end_by_sigterm() -> None:
    """Let SIGTERM end process 1 too, until a command has a handler of its own.

    Called before anything is imported that takes long: a pod that is deleted at that moment would
    stay until the kubelet kills it.
    """
    if is_init():
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End at once, as any other process does by default.

    An exception would be lost where Python cannot raise one, such as in the callbacks by which it
    lets go of the locks of imports: the pod would go on as if nobody had asked.
    """
    os._exit(Terminated.exit_code)
