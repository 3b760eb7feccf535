"""Progress on stderr: a line that rewrites itself on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TextIO

from shardedmodel_runtime.cli.output import tell
from shardedmodel_runtime.storage.base import ObjectStore

TERMINAL_SECONDS = 0.2
"""Between updates that rewrite one line."""
LOG_SECONDS = 5.0
"""Between lines where each one stays, as in a pod's log."""
CLEAR_LINE = "\r\x1b[K"
"""What a terminal takes for an empty line (ECMA-48, "EL")."""

_BINARY_UNITS = ("B", "KiB", "MiB", "GiB")
"""Up to the one that a GPU's memory is told in."""
_DECIMAL_UNITS = ("B", "kB", "MB")
"""Up to the one that files of weights are told in, which are compared with each other."""


class ProgressLine:
    """Shows what ``describe`` says, until it is left.

    Args:
        describe: one line of text; called in a thread of its own.
        stream: where to; stderr where None, so that stdout stays for results.
        stays: whether a terminal shows it in the end; what was waited for is of no interest then.
    """

    def __init__(
        self, describe: Callable[[], str], stream: TextIO | None = None, *, stays: bool = True
    ) -> None:
        self._describe = describe
        self._stays = stays
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if self._terminal and self._stays:
            self._show(end="\n")
        elif self._terminal:
            tell(CLEAR_LINE, end="", stream=self._stream)

    def _run(self) -> None:
        while not self._stopped.wait(TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            self._show(end="" if self._terminal else "\n")

    def _show(self, end: str) -> None:
        start = CLEAR_LINE if self._terminal else ""
        tell(f"{start}{self._describe()}", end=end, stream=self._stream)


def waiting_line(store: ObjectStore, what: str) -> ProgressLine:
    """Show what is waited for, and why it has not come: a store's retries take minutes."""
    return ProgressLine(lambda: waiting_text(store, what), stays=False)


def waiting_text(store: ObjectStore, what: str) -> str:
    """Say what is waited for, and why it has not come."""
    why = f", which failed: {store.last_failure}" if store.last_failure else ""
    return f"waiting for {what} of {store.uri}{why}"


class ByteCount:
    """Bytes that several threads are done with."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        """Count some more."""
        with self._lock:
            self.bytes += count


def binary_size(count: int) -> str:
    """Give bytes in the largest binary unit that they fill, as memory is sold."""
    return _size(count, 1024, _BINARY_UNITS, digits=2)


def decimal_size(count: float) -> str:
    """Give bytes in the largest decimal unit that they fill, as storage is sold and rates are."""
    return _size(count, 1000, _DECIMAL_UNITS, digits=1)


def _size(count: float, base: int, units: Sequence[str], *, digits: int) -> str:
    power = 0
    while power < len(units) - 1 and count >= base ** (power + 1):
        power += 1
    return f"{count / base**power:,.{digits if power else 0}f} {units[power]}"
