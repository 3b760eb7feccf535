"""On what terms one load reads, from wherever its objects come."""

from __future__ import annotations

import time
from dataclasses import dataclass

from shardedmodel_runtime.loading.runs import Progress


@dataclass(frozen=True, slots=True)
class Terms:
    """What all reads of one load have in common.

    Args:
        block_bytes: under one checksum.
        range_bytes: that one request reads at most.
        verify: whether to check blocks.
        concurrency: most reads in flight.
        progress: where to count.
        deadline: ``time.monotonic()`` after which the load has failed; None: never.
    """

    block_bytes: int
    range_bytes: int
    verify: bool
    concurrency: int
    progress: Progress
    deadline: float | None = None


def is_over(deadline: float | None) -> bool:
    """Whether a ``time.monotonic()`` has passed; None never does."""
    return deadline is not None and time.monotonic() >= deadline
