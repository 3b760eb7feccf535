from __future__ import annotations

from pathlib import Path

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from shardedmodel_runtime.errors import GroupError
from shardedmodel_runtime.rank import metadata
from shardedmodel_runtime.rank.store import DistError, Store
from tests.builders.rank_layout import write_layout


@pytest.mark.parametrize("size", [0, 5, metadata.CHUNK_BYTES, metadata.CHUNK_BYTES + 1])
def test_what_rank_0_publishes_arrives(size: int) -> None:
    store, data = HashStore(), bytes(range(256)) * (size // 256) + bytes(size % 256)
    metadata.broadcast(store, data)
    assert metadata.receive(store) == data


def test_nothing_arrives_before_it_is_published() -> None:
    assert metadata.receive(HashStore()) is None


def test_bytes_that_changed_on_the_way_are_refused() -> None:
    store = HashStore()
    metadata.broadcast(store, b"manifest")
    store.set("manifest/0", "manifesT")
    with pytest.raises(GroupError, match="other bytes"):
        metadata.receive(store)


def test_a_manifest_that_never_comes_is_a_group_error() -> None:
    with pytest.raises(GroupError, match="did not publish"):
        metadata.await_manifest(lambda _: HashStore(), 0.15)


def test_a_rank_waits_through_the_loss_of_the_store(tmp_path: Path) -> None:
    manifest = write_layout(tmp_path).manifest
    back = HashStore()
    metadata.broadcast(back, manifest.to_bytes())
    answers = iter([None, back])

    def connect(seconds: float) -> Store:
        store = next(answers)
        if store is None:
            raise DistError("connection was closed")
        return store

    assert metadata.await_manifest(connect, 5).manifest == manifest


def test_a_store_that_is_gone_is_not_asked_without_pause() -> None:
    attempts: list[float] = []

    def connect(seconds: float) -> Store:
        attempts.append(seconds)
        raise DistError("connection was closed")

    with pytest.raises(GroupError, match="did not publish"):
        metadata.await_manifest(connect, 0.25)
    assert len(attempts) <= 3


def test_what_a_rank_takes_has_the_digest_that_rank_0_published(tmp_path: Path) -> None:
    store = HashStore()
    published = metadata.broadcast(store, write_layout(tmp_path).manifest.to_bytes())
    assert metadata.await_manifest(lambda _: store, 5).sha256 == published


def test_nothing_is_agreed_before_rank_0_has_published() -> None:
    assert not metadata.check_agreed(HashStore(), 1, "")


def test_a_rank_that_holds_what_rank_0_published_agrees() -> None:
    store = HashStore()
    assert metadata.check_agreed(store, 1, metadata.broadcast(store, b"manifest"))


def test_a_rank_that_holds_another_manifest_is_told_what_to_do() -> None:
    store = HashStore()
    metadata.broadcast(store, b"manifest")
    with pytest.raises(GroupError, match=r"rank 1: holds .* the layout was replaced .* start"):
        metadata.check_agreed(store, 1, "0" * 64)
