"""Block checksums, taken where the bytes landed."""

from __future__ import annotations

import xxhash


def block_digest(block: memoryview) -> str:
    """XXH3-128 of a block in hex, as manifests hold it; the interpreter's lock is let go."""
    return xxhash.xxh3_128_hexdigest(block)
