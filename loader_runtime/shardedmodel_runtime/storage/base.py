"""What the runtime asks of a store, whatever is behind it.

Keys are relative to the store's root URI, with ``/`` between their segments. A digest names one
state of an object (``etag:…`` on S3, ``stat:<size>-<mtime_ns>`` for a file): a read that carries
one gets the bytes of that state or :class:`~shardedmodel_runtime.errors.SourceChanged`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from shardedmodel_runtime.errors import ConfigurationError, StorageError, Unavailable, excerpt
from shardedmodel_runtime.storage.reading import Reading

MAX_KEY_BYTES = 1024
"""Longest key in UTF-8 bytes that S3 takes (S3 user guide, "Naming Amazon S3 objects")."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as the store describes it; ``size`` in bytes."""

    key: str
    size: int
    digest: str


class ObjectWriter(Protocol):
    """One object on its way into a store, written in parts.

    Beginning one asks nothing of a server: what it has to know is told with the first part.

    ``write_part`` blocks until the store has the part, and may be called from several threads at
    once: who calls it decides how many parts are in flight and hence how much memory they take.
    Nothing is visible under the key before ``commit``, except that a store may show an object of
    a single part as soon as that part is written.
    """

    part_bytes: int
    """Size of every part but the last, which may be smaller."""

    def write_part(self, index: int, data: bytes | bytearray) -> None:
        """Store part ``index`` (from 0); ``data`` is not used any more when this returns."""
        ...

    def commit(self) -> None:
        """Make the object visible; all its parts have been written."""
        ...

    def abort(self) -> None:
        """Drop what was written so far, as far as the store still answers.

        Safe to call twice, after ``commit``, and from another thread while a part is being
        written: that one may fail, and none is taken any more.
        """
        ...


class RangeStore(Protocol):
    """Where ranges of objects come from."""

    @property
    def uri(self) -> str:
        """Root of the store, without a trailing slash."""
        ...

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        """Fill ``into`` with the bytes that begin at ``start``, resuming after interruptions.

        Args:
            key: of the object.
            start: byte in the object.
            into: writable; its length says how many bytes are wanted.
            digest: state of the object that is wanted; None: whichever it has.
            reading: lets another thread observe and end the read; None: nobody does.

        Raises:
            Cancelled: ``reading`` was ended.
            SourceChanged: the object's digest is not ``digest`` (any more).
            Unavailable: the range did not come whole in the attempts that one range has.
        """
        ...


class ReadableStore(RangeStore, Protocol):
    """A folder of objects to read. Implementations are thread-safe and count what they do exactly.

    Every method raises :class:`~shardedmodel_runtime.errors.StorageError`'s subclasses:
    ``NotFound``, ``AccessDenied``, ``SourceChanged``, and ``Unavailable`` after its own retries.
    """

    @property
    def bytes_read(self) -> int:
        """Bytes of content received so far, repeats included."""
        ...

    @property
    def requests(self) -> int:
        """Requests (or file operations) made so far, repeats included."""
        ...

    @property
    def retries(self) -> int:
        """Requests that were repeated because one before them failed."""
        ...

    def describe(self, key: str) -> ObjectInfo:
        """Describe one object without reading it."""
        ...

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Describe the objects directly in folder ``prefix`` (empty or ending in ``/``), by key.

        Only for sources without an index: readers of a layout take the manifest's word.
        """
        ...

    def read(self, key: str, *, limit: int, digest: str | None = None) -> bytes:
        """Read a small object whole; one of more than ``limit`` bytes is refused unread.

        Raises:
            StorageError: the object is larger than ``limit``.
        """
        ...

    def read_head(self, key: str, limit: int) -> tuple[ObjectInfo, bytes]:
        """Describe an object and read its first ``limit`` bytes, or all it has, in one request."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ObjectStore(ReadableStore, Protocol):
    """A folder of objects to read and write; errors are those of reading."""

    part_limits: tuple[int, int]
    """Smallest and largest sensible part of an object, in bytes."""

    @property
    def last_failure(self) -> str:
        """Why a request was repeated last; empty where none was."""
        ...

    def require_root(self) -> None:
        """See that there is something to write into, before any work is done.

        Raises:
            NotFound: the bucket does not exist. (A folder is made at the first write.)
        """
        ...

    def folders(self) -> Sequence[str]:
        """Names of the folders directly below the root, in order; none where there is no root."""
        ...

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write a small object at once.

        Returns:
            False when ``if_absent`` and the object was there already, which is left untouched.
        """
        ...

    def open_writer(self, key: str, size: int, part_bytes: int) -> ObjectWriter:
        """Begin an object of exactly ``size`` bytes in parts of ``part_bytes``."""
        ...

    def delete(self, key: str) -> None:
        """Delete one object; one that is not there is fine."""
        ...

    def drop_unfinished(self) -> None:
        """Drop what writers anywhere under the root have begun and neither committed nor aborted.

        For when nothing is to be written any more: writers that are still at work fail.
        What the store does not let go of is told in the log.
        """
        ...


class CountingStore:
    """Exact counters that any number of threads add to; base of the implementations."""

    part_limits = (1024 * 1024, 4 * 1024 * 1024)
    """Where nothing has to be sent anywhere: larger parts would only fall out of caches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes_read = 0
        self._requests = 0
        self._retries = 0
        self.last_failure = ""

    @property
    def bytes_read(self) -> int:
        """Bytes of content received so far, repeats included."""
        return self._bytes_read

    @property
    def requests(self) -> int:
        """Requests (or file operations) made so far, repeats included."""
        return self._requests

    @property
    def retries(self) -> int:
        """Requests that were repeated because one before them failed."""
        return self._retries

    def count(self, *, requests: int = 0, received: int = 0, retries: int = 0) -> None:
        """Add to the counters."""
        with self._lock:
            self._requests += requests
            self._bytes_read += received
            self._retries += retries

    def repeated(self, error: Unavailable) -> None:
        """Count a request that is repeated, and keep why."""
        self.count(retries=1)
        self.last_failure = error.message

    def close(self) -> None:
        """Let go of connections; nothing to do unless an implementation holds some."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_plain_key(key: str) -> bool:
    """Whether ``key`` stays inside its store: no empty, ``.`` or ``..`` segment, printable."""
    return (
        0 < len(key.encode(errors="surrogatepass")) <= MAX_KEY_BYTES
        and key.isprintable()
        and "\\" not in key
        and all(segment not in ("", ".", "..") for segment in key.split("/"))
    )


def checked_key(key: str) -> str:
    """Give ``key`` back when it stays inside its store.

    Raises:
        ConfigurationError: it does not.
    """
    if not is_plain_key(key):
        raise ConfigurationError(
            f"key {excerpt(key)!r} is not a plain relative path; "
            "use names separated by '/', without '.', '..' or empty ones"
        )
    return key


def too_large(uri: str, size: int, limit: int) -> StorageError:
    """Make the error for a small object that is not small."""
    return StorageError(f"{uri} has {size} bytes; at most {limit} are read of such an object")


class TooShort(StorageError):
    """An object ends before a range that must be in it."""

    @property
    def reason(self) -> str:
        """Not worth a word of its own to users."""
        return StorageError.__name__


def too_short(uri: str, size: int, stop: int) -> TooShort:
    """Make the error for an object that ends before a range that must be in it."""
    return TooShort(f"{uri} ends at byte {size}; bytes up to {stop} were asked for")
