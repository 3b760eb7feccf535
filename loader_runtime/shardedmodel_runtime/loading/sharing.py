"""Objects that several ranks hold, read once together: each rank a part, which it gives the others.

So a store sends what N ranks hold once and not N times, wherever the ranks are; the rest goes over
the process group. Ranks have to be there at once, which torchrun sees to. Pods, of which one may
return alone while the others hold their weights, read by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from shardedmodel_runtime.errors import GroupError, excerpt
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.manifest_content import LayoutObject

LEAST_WAIT = timedelta(milliseconds=1)
"""For a part once the deadline has passed: torch takes 0 for no limit."""

GROUPS_OF_A_LOAD = 1_000_000
"""More than one load makes: there is one for each set of ranks that hold an object."""


def left_of(deadline: float) -> timedelta:
    """Give what torch is to wait for where a deadline bounds it."""
    return max(timedelta(seconds=deadline - time.monotonic()), LEAST_WAIT)


def own_part(item: LayoutObject, rank: int) -> range:
    """Give the blocks of an object that a rank reads for all that hold it; perhaps none."""
    count, place = len(item.ranks), item.ranks.index(rank)
    blocks = len(item.blocks)
    return range(blocks * place // count, blocks * (place + 1) // count)


def drop(group: dist.ProcessGroup | None) -> None:
    """End a process group without waiting for its peers, who may be dead; None: the default one."""
    if dist.get_backend(group) == dist.Backend.NCCL:
        distributed_c10d._abort_process_group(group)  # destroying it would wait for the dead
    else:
        dist.destroy_process_group(group)


@contextmanager
def _counted_from(load: int | None) -> Iterator[None]:
    """Name the groups that are made meanwhile after a load, by its number.

    Torch names a group after how many its process has made, and ranks find each other by the name.
    Where a load failed on some ranks only, before their groups or within, they would differ in that
    for ever, and never meet again.
    """
    world = distributed_c10d._world
    before = world.group_count
    if load is not None:
        world.group_count = before + (load + 1) * GROUPS_OF_A_LOAD
    try:
        yield
    finally:
        if load is not None:
            world.group_count = before


class Sharing:
    """One rank's part in giving and taking.

    Args:
        rank: of torch's default process group.
        timeout_seconds: longest time that a part is waited for where a load has no deadline of its
            own; None: the group's own.
        number: all ranks' own for the only load that it is for; None: it is for several.
    """

    def __init__(
        self, rank: int, timeout_seconds: float | None = None, number: int | None = None
    ) -> None:
        self._rank = rank
        self._number = number
        self._timeout = None if timeout_seconds is None else timedelta(seconds=timeout_seconds)
        self._deadline: float | None = None
        self._groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
        self._former: list[dist.ProcessGroup] = []

    def form(self, manifest: Manifest, deadline: float | None) -> None:
        """Form a group for each set of ranks that hold an object; all ranks have to do it.

        Those of an earlier load are not used again: where it failed on some ranks, they would give
        parts of that load. They end once all ranks are here, so that none still takes from them.

        Args:
            manifest: says which they are.
            deadline: ``time.monotonic()`` after which no part is waited for; None: none.

        Raises:
            GroupError: a rank did not come to this load.
        """
        self._deadline = deadline
        self._leave()
        try:
            with _counted_from(self._number):
                self._form_all({tuple(item.ranks) for item in manifest.objects})
            if self._former:
                self._run(dist.barrier)
        except RuntimeError as error:  # torch's own, as below
            raise GroupError(f"not all ranks began to load: {excerpt(str(error))}") from error
        self._drop_former()

    def end(self) -> None:
        """End all groups: no rank takes from this one any more, or it has nothing to give."""
        self._leave()
        if dist.is_initialized():  # else they ended with the default group
            self._drop_former()

    def _leave(self) -> None:
        self._former += self._groups.values()
        self._groups = {}

    def _drop_former(self) -> None:
        while self._former:
            drop(self._former.pop())

    @property
    def _patience(self) -> timedelta | None:
        """How long a group may take to form, and each thing that it does."""
        return self._timeout if self._deadline is None else left_of(self._deadline)

    def _form_all(self, sets: Iterable[tuple[int, ...]]) -> None:
        for ranks in sorted(sets):
            if len(ranks) > 1:
                group = dist.new_group(list(ranks), timeout=self._patience)
                if self._rank in ranks:
                    self._groups[ranks] = group

    def own_part(self, item: LayoutObject) -> range:
        """Give the blocks of an object that this rank reads; see ``own_part``."""
        return own_part(item, self._rank)

    def exchange(self, item: LayoutObject, tensor: torch.Tensor, block_bytes: int) -> None:
        """Give this rank's part of an object, and take the others'.

        Args:
            item: the object; ranks take objects in the same order.
            tensor: its bytes, one-dimensional ``uint8``, of which the rank's own part is there.
            block_bytes: of the layout.

        Raises:
            GroupError: a rank did not give its part, or not before the deadline.
        """
        if len(item.ranks) == 1:
            return
        for giver in item.ranks:
            part = own_part(item, giver)
            piece = tensor[part.start * block_bytes : part.stop * block_bytes]
            try:
                if part:
                    group = self._groups[tuple(item.ranks)]
                    self._run(partial(dist.broadcast, piece, giver, group=group))
            except RuntimeError as error:  # torch's own: gloo and NCCL raise nothing narrower
                what = "did not give its part"
                if giver == self._rank:
                    what = "could not give its part to all"
                raise GroupError(
                    f"rank {giver} {what} of {item.key}: {excerpt(str(error))}"
                ) from error

    def _run(self, collective: Callable[..., dist.Work | None]) -> None:
        """Run what ranks do together, within what is left of the deadline."""
        if self._deadline is None:
            collective()
            return
        work = collective(async_op=True)
        if work is not None:  # this rank is in the group
            work.wait(left_of(self._deadline))
