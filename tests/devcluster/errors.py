"""What can go wrong with the development cluster.

DevClusterError
├── CommandError        a program that was run to its end failed
├── MissingError        a program, package or file that is needed is not there
├── BuildError          Kubernetes or an image could not be built
├── ComponentError      a component of the cluster ended or did not become ready in time
└── LeftoverError       something of the cluster outlived ``down``
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: Enough of a log to hold a Go panic's first frames, short enough for a terminal.
TAIL_LINES = 15


class DevClusterError(Exception):
    """Any failure of the development cluster; the message says what to do where that is known."""


class CommandError(DevClusterError):
    """A program that was run to its end failed."""

    def __init__(
        self, command: Sequence[str], code: int, output: str, log: Path | None = None
    ) -> None:
        last = "\n".join(output.strip().splitlines()[-TAIL_LINES:])
        where = f"; its log {log} ends" if log else ""
        super().__init__(f"{' '.join(command)} ended with {code}{where}:\n{last}")
        self.code = code


class MissingError(DevClusterError):
    """A program, package or file that is needed is not there."""


class BuildError(DevClusterError):
    """Kubernetes or an image could not be built."""


class ComponentError(DevClusterError):
    """A component of the cluster ended, or did not become ready in time."""

    def __init__(self, component: str, problem: str, log: Path) -> None:
        super().__init__(f"{component} {problem}; its log {log} ends:\n{tail(log)}")
        self.component = component
        self.log = log


class LeftoverError(DevClusterError):
    """Something of the cluster outlived ``down``."""

    def __init__(self, leftovers: Sequence[str]) -> None:
        super().__init__("left behind: " + "; ".join(leftovers))
        self.leftovers = list(leftovers)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Returns the last lines of a log, or says that there is none."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:])
