"""Results on stdout, for people and for programs, and errors on stderr."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TextIO

from shardedmodel_runtime.errors import ShardedModelError, StorageError, excerpt


def prepare() -> None:
    """Let no stream keep a command from its work.

    What stdout's encoding lacks is escaped, as it is on stderr; a stderr that was closed takes
    everything and keeps nothing.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open as long as the process


def counted(count: int, noun: str) -> str:
    """Say how many there are of something: ``1 rank``, ``2 ranks``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def show(text: str) -> None:
    """Print a result at once.

    Raises:
        StorageError: stdout takes nothing more; a file system that is full, say.
        BrokenPipeError: nobody reads it any more, as ``| head`` does once it has its lines.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon(sys.stdout)
        reason = excerpt(error.strerror or str(error))
        raise StorageError(f"stdout: {reason}; write the result elsewhere") from error


def tell(text: str, *, end: str = "\n", stream: TextIO | None = None) -> None:
    """Print a remark, on stderr where no stream is given; what it does not take is lost.

    A log that nobody reads any more, or on a disk that is full, is no reason to end the work.
    """
    stream = stream or sys.stderr
    try:
        print(text, end=end, file=stream, flush=True)
    except OSError:
        abandon(stream)


def show_error(error: ShardedModelError) -> None:
    """Tell an error of ours."""
    tell(f"error: {error.reason}: {error.message}")


def abandon(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere: the interpreter would write it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
