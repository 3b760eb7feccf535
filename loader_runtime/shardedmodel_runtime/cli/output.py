"""Results on stdout, for people and for programs, and errors on stderr."""

from __future__ import annotations

import os
import sys

from shardedmodel_runtime.errors import ShardedModelError, StorageError, excerpt


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
        abandon_stdout()
        reason = excerpt(error.strerror or str(error))
        raise StorageError(f"stdout: {reason}; write the result elsewhere") from error


def show_error(error: ShardedModelError) -> None:
    """Print an error of ours on stderr."""
    print(f"error: {error.reason}: {error.message}", file=sys.stderr, flush=True)


def abandon_stdout() -> None:
    """Let what stdout still holds go nowhere: the interpreter would try to write it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
