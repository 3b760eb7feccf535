"""The runtime's errors: one small tree that knows what is retryable.

    ShardedModelError
    ├── ConfigurationError            what the user asked for cannot be meant          exit 2
    │   └── InvalidSharding           a rule or parallelism does not fit the model     exit 2
    ├── CheckpointError               the source is not a usable checkpoint            exit 3
    │   ├── InvalidSafetensors        a header that lies about its file
    │   ├── InvalidIndex              an index that does not match its files
    │   ├── PickleCheckpoint          only pickles, which are never read
    │   └── UnsupportedArchitecture   no plan for it, and no rule given
    ├── StorageError                  the store refused or failed                      exit 4
    │   ├── NotFound                  bucket, folder or object is not there
    │   ├── AccessDenied              credentials missing, wrong or without the right
    │   ├── SourceChanged             an object changed while it was read
    │   └── Unavailable               timeouts, resets, 5xx                 retryable  exit 5
    │       └── Throttled             the store asks for fewer requests (503, 429)
    ├── LayoutError                   the layout is not what its manifest says         exit 6
    │   ├── LayoutNotFound            no manifest: the layout does not exist
    │   └── ChecksumMismatch          bytes differ, also after they were read again
    ├── GroupError                    the ranks could not keep their group  retryable  exit 7
    └── Terminated                    the process was asked to end          retryable  exit 143

Every error carries a stable CamelCase ``reason`` (the class's name unless it says otherwise),
which ends as the reason of a condition in the resource's status.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError

FOREIGN_TEXT_LIMIT = 200
"""Characters kept of a text that is not ours (a server's answer, a header): enough to recognise
it, too few to flood a status."""


class ShardedModelError(Exception):
    """Base of all errors that the product raises on purpose."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def reason(self) -> str:
        """Stable CamelCase word for conditions, events and termination messages."""
        return type(self).__name__


class ConfigurationError(ShardedModelError):
    """What was asked for cannot be meant: names the field, the value and what to do."""

    exit_code = 2


class InvalidSharding(ConfigurationError):
    """A rule or the parallelism does not fit the tensors of the checkpoint."""


class CheckpointError(ShardedModelError):
    """The source is not a usable checkpoint."""

    exit_code = 3


class InvalidSafetensors(CheckpointError):
    """A safetensors header that is malformed or does not match its file."""


class InvalidIndex(CheckpointError):
    """A ``model.safetensors.index.json`` that does not match the files beside it."""


class PickleCheckpoint(CheckpointError):
    """Only ``.bin``/``.pt`` pickles were found; they can run code and are never read."""


class UnsupportedArchitecture(CheckpointError):
    """No built-in plan for this ``model_type``, and no rule was given."""


class StorageError(ShardedModelError):
    """The store refused or failed."""

    exit_code = 4


class NotFound(StorageError):
    """A bucket, folder or object is not there.

    Args:
        what: is missing, and where.
        todo: for who named it; left out by those who know better what it was to be.
    """

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(f"{what}; {todo}" if todo else what)
        self.what = what


class AccessDenied(StorageError):
    """Credentials are missing, wrong, expired or without the right."""


class SourceChanged(StorageError):
    """An object changed between the moment it was described and the moment it was read."""


class Unavailable(StorageError):
    """Timeouts, resets, 5xx and SlowDown that outlasted the retries of one range."""

    retryable = True
    exit_code = 5


class Throttled(Unavailable):
    """The store asks for fewer requests: SlowDown and its like."""


class LayoutError(ShardedModelError):
    """The layout in storage is not what its manifest says."""

    exit_code = 6


class LayoutNotFound(LayoutError):
    """There is no manifest at this address: the layout does not exist."""


class ChecksumMismatch(LayoutError):
    """Bytes differ from their checksum, also after they were read again."""


class GroupError(ShardedModelError):
    """The ranks could not form, or could not keep, their group."""

    retryable = True
    exit_code = 7


class Terminated(ShardedModelError):
    """The process was asked to end (SIGTERM, SIGINT) and cleaned up behind itself."""

    retryable = True
    exit_code = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended


def excerpt(text: str, limit: int = FOREIGN_TEXT_LIMIT) -> str:
    """Shorten a foreign text to one printable line of at most ``limit`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def meant(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """Say which of the names one that is none of them may stand for; else ``otherwise``."""
    near = get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def first_problem(error: ValidationError) -> tuple[str, str, object]:
    """Take the first problem out of pydantic's error.

    Returns:
        The field's path, empty where the whole is wrong; what is wrong; and what was given.
    """
    problems = error.errors(include_url=False)
    # A field that was mistyped is missing under its right name as well.
    unknown = (problem for problem in problems if problem["type"] == "extra_forbidden")
    first = next(unknown, problems[0])
    field = excerpt(".".join(str(part) for part in first["loc"]))
    return field, excerpt(first["msg"].removeprefix("Value error, ")), first["input"]
