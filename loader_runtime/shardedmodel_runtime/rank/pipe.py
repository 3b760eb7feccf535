"""What a rank process tells its supervisor: JSON lines through a pipe."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from shardedmodel_runtime.report import Failure, GroupReport, RankReport, Wire

TICK_SECONDS = 0.5
"""Between two reports: how fresh ``/readyz`` is, at a cost that does not show."""


class RankMessage(Wire):
    """One line: how the rank stands, what it knows of its group, why it gives up.

    ``exit_code`` is what a failure ends the process with, told beforehand: the process may have to
    be killed, when what it still holds does not let it end.
    """

    rank: RankReport
    group: GroupReport | None = None
    failure: Failure | None = None
    exit_code: int = 0


class Reporter:
    """Sends a message every ``TICK_SECONDS``, and at once when asked to.

    A rank does not outlive its supervisor: when nobody reads the pipe any more, it ends.

    Args:
        descriptor: the pipe's writing end.
        compose: makes the message; replaced as the rank learns more.
    """

    def __init__(self, descriptor: int, compose: Callable[[], RankMessage]) -> None:
        self._descriptor = descriptor
        self.compose = compose
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        """Send from a thread of its own until ``stop``."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing further on its own."""
        self._stopping.set()
        self._thread.join()

    def send(self, message: RankMessage) -> None:
        """Send one message now."""
        line = memoryview(message.to_json().encode() + b"\n")
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._descriptor, line) :]
        except BrokenPipeError:
            os.kill(os.getpid(), signal.SIGTERM)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.send(self.compose())
            self._stopping.wait(TICK_SECONDS)
