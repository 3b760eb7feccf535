"""Checksums of an object that passes by: SHA-256 of the whole, XXH3-128 of each block."""

from __future__ import annotations

import hashlib

import xxhash

from shardedmodel_runtime.layout.manifest import BLOCK_BYTES


class ObjectDigest:
    """Takes an object's bytes in order, in pieces of any size.

    Both algorithms let go of the interpreter's lock on large pieces, so objects are digested
    side by side in their threads.

    Args:
        block_bytes: bytes under one block checksum, counted from the object's first byte.
    """

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        self._block_bytes = block_bytes
        self._whole = hashlib.sha256()
        self._block = xxhash.xxh3_128()
        self._in_block = 0
        self._blocks: list[str] = []

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        self._whole.update(data)
        view = memoryview(data)
        while view:
            piece = view[: self._block_bytes - self._in_block]
            self._block.update(piece)
            self._in_block += len(piece)
            view = view[len(piece) :]
            if self._in_block == self._block_bytes:
                self._close_block()

    @property
    def blocks(self) -> list[str]:
        """Checksums of the blocks that are complete, in hex."""
        return self._blocks

    def finish(self) -> tuple[str, list[str]]:
        """Give the SHA-256 of the whole and the blocks' checksums, in hex; to be called once."""
        if self._in_block:
            self._close_block()
        return self._whole.hexdigest(), self._blocks

    def _close_block(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block = xxhash.xxh3_128()
        self._in_block = 0
