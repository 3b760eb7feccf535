"""Reads that may still write into memory that a model holds, whatever became of their load.

A load that fails does not wait for its reads: a file server that hangs lets none of them go. Their
bytes may land long afterwards, so memory that loads use again is not given to the next one before.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shardedmodel_runtime.errors import Unavailable

ENDING_SECONDS = 1.0
"""How long to wait for reads of a load that failed: a socket that was shut ends them within
milliseconds; what takes longer hangs in a file system, and nobody knows for how long."""

_under_way: Counter[int] = Counter()
"""By the memory's address, which nobody else has while a read holds it."""
_changed = threading.Condition()


@contextmanager
def landing_in(memory: torch.Tensor) -> Iterator[None]:
    """Count a read that writes into ``memory`` until it ends."""
    address = memory.data_ptr()
    with _changed:
        _under_way[address] += 1
    try:
        yield
    finally:
        _ended(address)


@contextmanager
def landing_alone(memory: torch.Tensor) -> Iterator[None]:
    """Count a load into ``memory`` until it ends, which no other read writes into meanwhile.

    Of several that ask for it at once one is given it, and the others wait as for one that failed.

    Raises:
        Unavailable: another one still does; it may end at any time.
    """
    address = memory.data_ptr()
    with _changed:
        if not _changed.wait_for(lambda: address not in _under_way, ENDING_SECONDS):
            raise Unavailable(
                f"into: {_under_way[address]} reads of an earlier load, which failed or has not "
                "ended, may still write into its memory; try again when it has ended or the file "
                "system answers, or load into new memory"
            )
        _under_way[address] += 1
    try:
        yield
    finally:
        _ended(address)


def _ended(address: int) -> None:
    with _changed:
        _under_way[address] -= 1
        if not _under_way[address]:
            del _under_way[address]
        _changed.notify_all()
