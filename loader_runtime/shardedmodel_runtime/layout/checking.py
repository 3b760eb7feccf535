"""Reads an object of a layout once, front to back, and holds every byte against the manifest."""

from __future__ import annotations

import threading

from shardedmodel_runtime.errors import LayoutError, NotFound
from shardedmodel_runtime.layout.digests import ObjectDigest
from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.reading import Reading
from shardedmodel_runtime.storage.uri import join_uri

SKIP_BYTES = 4 * 1024 * 1024
"""Largest read of bytes that only the checksums want: headers, pad, what another object holds too,
which are mostly smaller."""


class CheckedObject:
    """One object that is checked by the reads of it.

    What lies between two reads is read as well. Bytes are given before their block is whole, so
    what is made of them counts only after :meth:`finish`. Bytes that are asked for again are not
    checked again: the store's digest says that they are the same.

    Args:
        store: the layout's folder.
        item: what the manifest says of the object.
        block_bytes: bytes under one checksum.
    """

    def __init__(self, store: ObjectStore, item: LayoutObject, block_bytes: int) -> None:
        self._store = store
        self._item = item
        self._block_bytes = block_bytes
        self._digest: str | None = None
        self._checksum = ObjectDigest(block_bytes)
        self._position = 0
        self._compared = 0
        self._lock = threading.Lock()

    def read(self, start: int, into: memoryview, reading: Reading | None = None) -> None:
        """Fill ``into`` with the bytes from ``start`` on.

        Raises:
            LayoutError: the object is missing, or a block that ended in these bytes differs.
            SourceChanged: the object changed since it was first read.
            StorageError: it cannot be read.
        """
        with self._lock:
            self._skip_to(start)
            self._fetch(start, into, reading)
            self._take(into[self._position - start :])

    def finish(self) -> None:
        """Read the rest, and see that all of it is what the manifest says; to be called once.

        Raises:
            LayoutError: it is not.
            SourceChanged: the object changed since it was first read.
            StorageError: it cannot be read.
        """
        with self._lock:
            self._skip_to(self._item.bytes)
            sha256, blocks = self._checksum.finish()
            self._compare(blocks)
            if sha256 != self._item.sha256:
                raise self._broken("SHA-256 differs while every block agrees")

    def _skip_to(self, start: int) -> None:
        while self._position < start:
            data = memoryview(bytearray(min(start - self._position, SKIP_BYTES)))
            self._fetch(self._position, data)
            self._take(data)

    def _fetch(self, start: int, into: memoryview, reading: Reading | None = None) -> None:
        if self._digest is None:
            self._digest = self._describe()
        self._store.read_range(self._item.key, start, into, digest=self._digest, reading=reading)

    def _describe(self) -> str:
        try:
            info = self._store.describe(self._item.key)
        except NotFound as error:
            raise self._broken("it is missing") from error
        if info.size != self._item.bytes:
            raise self._broken(f"it has {info.size} bytes, not {self._item.bytes}")
        return info.digest

    def _take(self, data: memoryview) -> None:
        self._checksum.update(data)
        self._position += len(data)
        self._compare(self._checksum.blocks)

    def _compare(self, blocks: list[str]) -> None:
        for number in range(self._compared, len(blocks)):
            if blocks[number] != self._item.blocks[number]:
                first = number * self._block_bytes
                raise self._broken(f"block {number} (from byte {first}) differs")
        self._compared = len(blocks)

    def _broken(self, how: str) -> LayoutError:
        where = join_uri(self._store.uri, self._item.key)
        return LayoutError(f"{where} is broken: {how}; pre-shard the model again")
