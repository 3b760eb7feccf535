"""Daemons that outlive the command which started them, and how they are found and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.devcluster.errors import ComponentError
from tests.devcluster.settings import MARKER, REPOSITORY, Slot, environment

#: An API server that is told to end takes a moment for open requests; nothing here is worth more.
GRACE_SECONDS = 3.0

#: The kernel ends a whole process namespace within this, unless a disk hangs.
KILL_SECONDS = 15.0

#: Name of the record of the node's first process.
NODE = "node"


@dataclass(frozen=True)
class Process:
    """A process, told from a later one with the same pid by the time of its start."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Describes a process that runs now.

        Raises:
            ProcessLookupError: There is none with this pid.
        """
        stat = _stat(pid)
        if stat is None:
            raise ProcessLookupError(pid)
        return cls(pid, stat[1])

    @classmethod
    def load(cls, record: Path) -> Process | None:
        """Reads a record; None where there is none or it was not written to its end."""
        try:
            return cls(**json.loads(record.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, record: Path) -> None:
        """Writes the record, whole or not at all."""
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(record)

    def is_alive(self) -> bool:
        """Whether it runs: neither gone, nor a zombie, nor replaced by another of its pid."""
        stat = _stat(self.pid)
        return stat is not None and stat[1] == self.started and stat[0] not in "ZX"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it still runs."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _stat(pid: int) -> tuple[str, int] | None:
    """Returns state and start time (fields 3 and 22 of /proc/PID/stat), or None."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return None
    # The name in field 2 may hold blanks and brackets: count from its end.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def end(processes: Iterable[Process], grace: float = GRACE_SECONDS) -> list[Process]:
    """Asks processes to end, kills those that do not, and returns those that still run."""
    processes = list(processes)
    if grace:
        for process in processes:
            process.signal(signal.SIGTERM)
        _wait(processes, grace)
    for process in processes:
        process.signal(signal.SIGKILL)
    return _wait(processes, KILL_SECONDS)


def _wait(processes: Sequence[Process], seconds: float) -> list[Process]:
    deadline = time.monotonic() + seconds
    while alive := [process for process in processes if process.is_alive()]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return alive


class Supervisor:
    """Starts and ends the daemons of one slot."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    def log(self, name: str) -> Path:
        """Returns the log of a component."""
        return self.slot.logs / f"{name}.log"

    def process(self, name: str) -> Process | None:
        """Returns the process of a component if it runs."""
        found = Process.load(self._record(name))
        return found if found and found.is_alive() else None

    def names(self) -> list[str]:
        """Returns the components that were started and not ended."""
        return sorted(path.stem for path in self.slot.pids.glob("*.json"))

    def start_node(self) -> None:
        """Makes the node's namespaces.

        Raises:
            ComponentError: They could not be set up.
        """
        arguments = [str(self.slot.state), self.slot.node_address]
        self._helper("init", NODE, arguments)

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Starts a component, inside the node if there is one.

        Raises:
            ComponentError: It could not be started.
        """
        node = self.process(NODE)
        self._helper("spawn", name, [str(node.pid) if node else "-", *map(str, command)])

    def stop(self, name: str, grace: float = GRACE_SECONDS) -> None:
        """Ends one component."""
        process = self.process(name)
        remaining = end([process], grace) if process else []
        if remaining:
            raise ComponentError(name, "does not end", self.log(name))
        self._record(name).unlink(missing_ok=True)

    def in_node(self, command: Sequence[str | Path]) -> list[str]:
        """Returns the command line that runs a program inside the node.

        Raises:
            ComponentError: There is no node.
        """
        node = self.process(NODE)
        if node is None:
            raise ComponentError(NODE, "does not run", self.log(NODE))
        inside = ["nsenter", "--target", str(node.pid), "--mount", "--net", "--pid", "--"]
        return [*inside, *map(str, command)]

    def end_all(self) -> list[Process]:
        """Ends everything of the slot, also what no record tells of; returns what still runs."""
        node = self.process(NODE)
        # No grace: what they would save is thrown away.
        remaining = end([node], grace=0) if node else []
        return remaining + end(self.marked(), grace=0)

    def marked(self) -> list[Process]:
        """Finds the slot's processes by the marker in their environment."""
        wanted = f"{MARKER}={self.slot.state}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
                if wanted in environment.split(b"\0"):
                    found.append(Process.of(int(folder.name)))
            except OSError:
                continue
        return [process for process in found if process.is_alive()]

    def _record(self, name: str) -> Path:
        return self.slot.pids / f"{name}.json"

    def _helper(self, command: str, name: str, arguments: list[str]) -> None:
        record, log = self._record(name), self.log(name)
        words = [sys.executable, "-m", "tests.devcluster.node", command, str(record), str(log)]
        # The module path is for those components that are Python modules of this package.
        variables = {
            **environment(),
            MARKER: str(self.slot.state),
            "PYTHONPATH": str(REPOSITORY),
        }
        done = subprocess.run(
            [*words, *arguments],
            cwd=REPOSITORY,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ComponentError(name, f"could not be started: {done.stderr.strip()}", log)
