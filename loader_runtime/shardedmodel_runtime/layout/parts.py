"""Where an object ends and the next begins: parts of a set of tensors, the same for all ranks.

The parts with one number hold, for each rank, its pieces of the same tensors, and no others do.
So what is behind finished parts need not be read again after a kill, and several workers, each
with parts of its own, read nothing twice. Parts follow from the plan alone: whoever writes a
layout, with however many workers, writes the same objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from shardedmodel_runtime.sharding.cuts import Range

MIN_OBJECT_BYTES = 64 * 1024 * 1024
"""What a rank's part has, about, where the rank has more: four blocks for a loader to read side by
side, and little to write again after a kill."""
MAX_PARTS = 32
"""Parts of a rank, however large: work for many workers, and keys that people can look through."""
MAX_OBJECT_BYTES = 40 * 1024**3
"""Beyond it there are more parts. A multipart upload has at most 10,000 pieces (S3 user guide,
"Amazon S3 multipart upload limits"), of 5 MiB where many objects share a budget: 48.8 GiB."""


def split_into_parts(sizes: Sequence[int], min_object_bytes: int = MIN_OBJECT_BYTES) -> list[Range]:
    """Divide the pieces of a place into parts of about equal bytes; a piece is never divided.

    Args:
        sizes: bytes of each piece, in writing order. Tensor ranks of one set must be given
            the same sizes, the first rank's, so that their parts hold the same tensors.
        min_object_bytes: about the smallest part where there are several.

    Returns:
        Half-open ranges of indices, none of them empty, in order.
    """
    total = sum(sizes)
    wanted = min(total // min_object_bytes, MAX_PARTS)
    count = max(wanted, -(-total // MAX_OBJECT_BYTES), 1)
    starts: dict[int, int] = {}
    position = 0
    for index, size in enumerate(sizes):
        # By its middle, in whole numbers: equal plans must give equal parts everywhere.
        number = (2 * position + size) * count // (2 * total) if total else 0
        starts.setdefault(number, index)
        position += size
    edges = [*starts.values(), len(sizes)]
    return list(pairwise(edges))
