"""Running programs to their end, and showing progress while one takes long."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.devcluster.errors import CommandError, MissingError, tail
from tests.devcluster.settings import environment

#: Receives one line of progress.
Progress = Callable[[str], None]

#: Often enough to see that something goes on, seldom enough not to fill a CI log.
TICK_SECONDS = 15.0


def silent(_line: str) -> None:
    """The progress of who wants none."""


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> str:
    """Runs a short program and returns its standard output.

    Raises:
        CommandError: It failed; the message holds the end of its output.
        MissingError: There is no such program.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            env={**environment(), **(env or {})},
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise MissingError(f"{words[0]} is not installed") from error
    if done.returncode:
        raise CommandError(words, done.returncode, done.stdout + done.stderr)
    return done.stdout


def run_long(
    what: str,
    command: Sequence[str | Path],
    log: Path,
    progress: Progress,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Runs a program that may take minutes; its output goes to the log, the time to progress.

    Raises:
        CommandError: It failed; the message names the log and holds its end.
    """
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    progress(f"{what} (log: {log})")
    started = time.monotonic()
    with (
        log.open("ab") as output,
        subprocess.Popen(
            words,
            env={**environment(), **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            code = _tick_until_done(process, what, started, progress)
        except BaseException:
            process.kill()
            raise
    if code:
        raise CommandError(words, code, tail(log), log)
    progress(f"{what}: done in {time.monotonic() - started:.0f} s")


def _tick_until_done(
    process: subprocess.Popen[bytes], what: str, started: float, progress: Progress
) -> int:
    while True:
        try:
            return process.wait(timeout=TICK_SECONDS)
        except subprocess.TimeoutExpired:
            progress(f"{what}: {time.monotonic() - started:.0f} s so far")


@contextmanager
def lock(path: Path, holder: str, progress: Progress) -> Iterator[None]:
    """Holds a lock file while the body runs; the kernel releases it if this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for {holder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
