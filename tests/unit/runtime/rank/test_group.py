from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from shardedmodel_runtime.errors import GroupError
from shardedmodel_runtime.rank import group, metadata
from shardedmodel_runtime.rank.incarnations import Member


def member(store: HashStore, rank: int, manifest: str) -> Member:
    """A rank of two that has joined with weights of a manifest."""
    joined = Member(rank, 2)
    joined.join(store)
    joined.manifest = manifest
    return joined


def arrive(store: HashStore, one: Member, timeout_seconds: float) -> None:
    group.await_all(one, store, 0, "here", lambda: False, timeout_seconds)


def test_a_rank_that_holds_another_manifest_than_rank_0_gives_up() -> None:
    store = HashStore()
    member(store, 0, metadata.broadcast(store, b"new")).arrive(store, 0, "here")
    with pytest.raises(GroupError, match=r"rank 1: holds weights of the manifest .* old-digest"):
        arrive(store, member(store, 1, "old-digest"), timeout_seconds=60)


def test_rank_0_waits_for_the_rank_that_holds_another_manifest() -> None:
    store = HashStore()
    first = member(store, 0, metadata.broadcast(store, b"new"))
    member(store, 1, "old-digest").arrive(store, 0, "here")
    with pytest.raises(GroupError, match="1 of 2 ranks are missing after 0 s: 1"):
        arrive(store, first, timeout_seconds=0.1)


def test_a_rank_that_was_not_counted_is_found_at_the_timeout() -> None:
    store = HashStore()
    manifest = metadata.broadcast(store, b"new")
    second = member(store, 1, manifest)
    store.set(second.arrival_keys(0)[1], "here")
    arrive(store, member(store, 0, manifest), timeout_seconds=0.1)


def test_ranks_that_hold_one_manifest_are_all_there() -> None:
    store = HashStore()
    manifest = metadata.broadcast(store, b"new")
    member(store, 1, manifest).arrive(store, 0, "here")
    arrive(store, member(store, 0, manifest), timeout_seconds=60)


def test_nccl_that_waits_for_a_dead_peer_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never = threading.Event()

    def init_process_group(*_: Any, **__: Any) -> None:
        never.wait()

    monkeypatch.setattr(dist, "init_process_group", init_process_group)
    monkeypatch.setattr(group, "NCCL_SECONDS", 0.1)
    with pytest.raises(GroupError, match="incarnation 3: NCCL has not connected its 2 ranks"):
        group.form(Member(0, 2), HashStore(), 3, "nccl", torch.device("cpu"))
    never.set()


def test_what_nccl_raises_is_raised_as_an_attempt_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init_process_group(*_: Any, **__: Any) -> None:
        raise RuntimeError("NCCL error: unhandled system error")

    monkeypatch.setattr(dist, "init_process_group", init_process_group)
    with pytest.raises(group.FormingFailed, match="incarnation 3: NCCL error"):
        group.form(Member(0, 2), HashStore(), 3, "nccl", torch.device("cpu"))


def test_bytes_go_over_nccl_from_the_device_that_the_group_is_bound_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def all_gather(parts: list[torch.Tensor], own: torch.Tensor, group: Any) -> None:
        parts[0].copy_(own)

    monkeypatch.setattr(dist, "get_backend", lambda group: dist.Backend.NCCL)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 1)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    bound: Any = SimpleNamespace(bound_device_id=torch.device("cpu"))
    assert group.all_gather_bytes(b"words", bound) == [b"words"]
