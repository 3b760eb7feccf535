"""How a long run ends before its time: with what it started stopped."""

from __future__ import annotations

import signal
import sys
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM
"""As a shell tells of a process that a signal ended."""


def unwind_on_sigterm() -> None:
    """Let SIGTERM end this process as an error would: every ``with`` and ``finally`` is left.

    Without it the servers, operators and clusters of a run that is stopped go on for ever.
    """

    def unwind(signal_number: int, frame: FrameType | None) -> None:
        sys.exit(EXIT_CODE)

    signal.signal(signal.SIGTERM, unwind)
