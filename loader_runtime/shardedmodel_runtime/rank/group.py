"""The process group of one incarnation: formed when every rank has its weights, then left.

And what ranks tell each other over a group, as bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from shardedmodel_runtime.errors import GroupError, excerpt
from shardedmodel_runtime.loading.sharing import drop
from shardedmodel_runtime.rank import metadata
from shardedmodel_runtime.rank.incarnations import Member
from shardedmodel_runtime.rank.store import DistError, PrefixStore, Store
from shardedmodel_runtime.storage.waiting import within

ARRIVAL_POLL_SECONDS = 0.1
"""Between two looks whether all ranks have arrived."""
FORM_TIMEOUT = timedelta(seconds=30)
"""For connecting ranks that are all there, and the barrier: a full mesh of 1,024 takes seconds."""
NCCL_SECONDS = 120.0
"""For NCCL to connect them and pass the barrier: a thousand ranks take tens of seconds."""
COLLECTIVE_TIMEOUT = distributed_c10d.default_pg_timeout
"""For the entrypoint's own collectives: torch's default, 30 minutes."""
NAMED_MISSING = 8
"""Missing ranks that a message names; the first few tell which pods to look at."""


class GroupChanged(Exception):
    """The group moved on to another incarnation; not an error of anybody's."""


class FormingFailed(GroupError):
    """Ranks that had all arrived could not be connected; another attempt may go better."""


def choose_backend(wanted: str, device: torch.device) -> str:
    """Give the backend's name: NCCL for CUDA tensors, else gloo."""
    if wanted != "auto":
        return wanted
    return "nccl" if device.type == "cuda" else "gloo"


def claim(device: torch.device) -> torch.device | None:
    """Make a CUDA device this thread's current one, from where NCCL takes what has no index.

    Returns:
        The device that a process group is bound to; None on the CPU.
    """
    if device.type != "cuda":
        return None
    torch.cuda.set_device(device)
    return device


def await_all(
    member: Member,
    store: Store,
    incarnation: int,
    words: str,
    is_over: Callable[[], bool],
    timeout_seconds: float,
) -> None:
    """Say that this rank has arrived, and wait until all have, with the same manifest.

    Rank 0's is the one that counts. A rank that holds another gives up, begins anew and takes
    rank 0's, while those that agree keep their weights and wait for it.

    Raises:
        GroupChanged: the group moved on meanwhile, or the store went away.
        GroupError: ranks are missing after ``timeout_seconds``, which it names; or this rank
            holds weights of another manifest than rank 0 has published.
    """
    deadline = time.monotonic() + timeout_seconds
    has_agreed = False
    try:
        if is_over():
            raise GroupChanged
        member.arrive(store, incarnation, words)
        while not member.are_all_here(store, incarnation):
            if is_over():
                raise GroupChanged
            has_agreed = has_agreed or metadata.check_agreed(store, member.rank, member.manifest)
            if time.monotonic() > deadline:
                if missing := member.missing(store, incarnation):
                    raise GroupError(describe_missing(missing, member.world_size, timeout_seconds))
                return  # the last came just now, or went before it was counted
            time.sleep(ARRIVAL_POLL_SECONDS)
    except DistError as error:
        raise GroupChanged from error


def describe_missing(missing: list[int], world_size: int, seconds: float) -> str:
    """Say who did not arrive."""
    return (
        f"{len(missing)} of {world_size} ranks are missing after {seconds:.0f} s: "
        f"{name_ranks(missing)}; look at their pods"
    )


def name_ranks(ranks: Sequence[int]) -> str:
    """List ranks for a message, at most ``NAMED_MISSING`` of them by number."""
    names = ", ".join(str(rank) for rank in ranks[:NAMED_MISSING])
    more = len(ranks) - NAMED_MISSING
    return f"{names} and {more} more" if more > 0 else names


def form(
    member: Member, store: Store, incarnation: int, backend: str, device: torch.device
) -> None:
    """Make the incarnation's process group torch's default one, and pass a barrier in it.

    NCCL waits for a peer that dies meanwhile without end, in a call that nothing interrupts. So it
    connects in a thread that is left to itself, and the process has to end.

    Raises:
        FormingFailed: a rank that had arrived was not there any more.
        GroupError: NCCL did not come back within ``NCCL_SECONDS``.
    """
    leave()  # the group may have changed just when it was formed
    # A failed attempt leaves this counter raised, which is part of the keys under which ranks
    # find each other; a process that is new would look elsewhere than one that tried before.
    distributed_c10d._world.group_count = 0
    claim(device)  # for this thread, in which the entrypoint will run
    own = PrefixStore(f"inc/{incarnation}/group", store)
    failed = f"the group could not be formed at incarnation {incarnation}"
    try:
        within(
            NCCL_SECONDS if backend == dist.Backend.NCCL else None,
            lambda: _connect(member, own, backend, device),
            lambda: GroupError(f"{failed}: {describe_hanging(member.world_size)}"),
        )
    except RuntimeError as error:  # torch's own: store, gloo and NCCL raise nothing narrower
        leave()
        raise FormingFailed(f"{failed}: {excerpt(str(error))}") from error
    distributed_c10d._set_pg_timeout(COLLECTIVE_TIMEOUT)


def _connect(member: Member, store: Store, backend: str, device: torch.device) -> None:
    dist.init_process_group(
        backend,
        store=store,
        rank=member.rank,
        world_size=member.world_size,
        timeout=FORM_TIMEOUT,
        device_id=claim(device),
    )
    dist.barrier()


def describe_hanging(world_size: int) -> str:
    """Say that NCCL does not come back, which names nobody."""
    return (
        f"NCCL has not connected its {world_size} ranks within {NCCL_SECONDS:.0f} s; one of them "
        "has died or cannot be reached, so look at the other pods"
    )


def leave() -> None:
    """Drop the process group, if there is one; its peers may be dead already."""
    if dist.is_initialized():
        drop(None)


def all_gather_bytes(data: bytes, group: dist.ProcessGroup | None) -> list[bytes]:
    """Exchange some bytes, at least one, with every rank of a group; in the order of ranks."""
    device = _device_of(group)
    count = dist.get_world_size(group)
    size = torch.tensor([len(data)], device=device)
    sizes = [torch.empty_like(size) for _ in range(count)]
    dist.all_gather(sizes, size, group)
    width = max(int(each) for each in sizes)
    own = torch.zeros(width, dtype=torch.uint8, device=device)
    own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    parts = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(parts, own, group)
    return [
        part.cpu().numpy().tobytes()[: int(each)] for part, each in zip(parts, sizes, strict=True)
    ]


def _device_of(group: dist.ProcessGroup | None) -> torch.device:
    """Give the device whose tensors a group exchanges.

    A group of NCCL that is bound to a device refuses those of others, and the current device is
    the thread's own.
    """
    if dist.get_backend(group) != dist.Backend.NCCL:
        return torch.device("cpu")
    bound = (group or distributed_c10d._get_default_group()).bound_device_id
    return bound or torch.device("cuda")
