from __future__ import annotations

import hashlib

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shardedmodel_runtime.layout.digests import ObjectDigest


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_pieces_of_any_size_give_the_checksums_of_the_whole(pieces: list[bytes]) -> None:
    digest = ObjectDigest(block_bytes=16)
    for piece in pieces:
        digest.update(piece)
    whole = b"".join(pieces)
    blocks = [whole[i : i + 16] for i in range(0, len(whole), 16)]
    assert digest.finish() == (
        hashlib.sha256(whole).hexdigest(),
        [xxhash.xxh3_128(block).hexdigest() for block in blocks],
    )
