from __future__ import annotations

import time
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from shardedmodel_runtime.errors import ChecksumMismatch, ConfigurationError, GroupError
from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader
from shardedmodel_runtime.loading.shard import LoadedShard
from shardedmodel_runtime.loading.sharing import LEAST_WAIT, Sharing, own_part
from tests.builders.rank_layout import BLOCK_BYTES, Layout, raw, write_layout


class Peers(Sharing):
    """Gives what the other rank would, from the layout's own files; or other bytes.

    Args:
        layout: what is loaded.
        spoils: whether every byte that is given is wrong.
    """

    def __init__(self, layout: Layout, *, spoils: bool = False) -> None:
        super().__init__(0)
        self._layout = layout
        self._spoils = spoils

    def form(self, manifest: object, deadline: object) -> None:
        """There is no group."""

    def exchange(self, item: LayoutObject, tensor: torch.Tensor, block_bytes: int) -> None:
        whole = torch.frombuffer(
            bytearray((self._layout.folder / item.key).read_bytes()), dtype=torch.uint8
        )
        for giver in item.ranks[1:]:
            part = own_part(item, giver)
            span = slice(part.start * block_bytes, part.stop * block_bytes)
            tensor[span] = ~whole[span] if self._spoils else whole[span]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Two ranks, and 12,000 bytes that both hold."""
    both = torch.arange(3000, dtype=torch.float32)
    return write_layout(tmp_path, 2, {"own": torch.ones(64, 48), "both": both}, ("both",))


def load(layout: Layout, sharing: Sharing | None) -> LoadedShard:
    config = ModelLoadConfig(layout=layout.uri, world_size=2, device="cpu", share_common=True)
    return DistributedCheckpointLoader(config, sharing=sharing).load()


def assert_held(layout: Layout, shard: LoadedShard) -> None:
    assert {name: raw(t) for name, t in shard.state_dict.items()} == {
        name: raw(t) for name, t in layout.expected[0].items()
    }


@pytest.mark.parametrize(("blocks", "ranks"), [(0, 2), (1, 3), (4, 4), (7, 3), (2, 5)])
def test_parts_are_the_whole_object_each_block_once(blocks: int, ranks: int) -> None:
    item = LayoutObject(
        key="common/part-00000.safetensors",
        ranks=list(range(ranks)),
        bytes=blocks * BLOCK_BYTES,
        sha256="0" * 64,
        blocks=["0" * 32] * blocks,
        data_start=0,
        tensors=[],
    )
    parts = [own_part(item, rank) for rank in range(ranks)]
    assert [block for part in parts for block in part] == list(range(blocks))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_rank_reads_its_part_and_takes_the_others(layout: Layout) -> None:
    shard = load(layout, Peers(layout))
    assert_held(layout, shard)
    own, both = layout.manifest.objects_of(0)
    assert shard.report.bytes_read == own.bytes + len(own_part(both, 0)) * BLOCK_BYTES


def test_blocks_that_a_peer_gave_wrongly_are_read_from_the_store(layout: Layout) -> None:
    shard = load(layout, Peers(layout, spoils=True))
    assert_held(layout, shard)
    assert shard.report.bytes_read == layout.manifest.rank_bytes(0)


def test_blocks_that_are_wrong_everywhere_are_an_error(layout: Layout) -> None:
    path = layout.folder / layout.manifest.objects_of(0)[1].key
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ChecksumMismatch):
        load(layout, Peers(layout))


@pytest.mark.parametrize(
    ("rank", "told"),
    [(0, "rank 0 could not give its part to all of common/"), (1, "rank 0 did not give its part")],
)
def test_a_part_that_does_not_come_is_told_by_who_takes_it_and_who_gives_it(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, rank: int, told: str
) -> None:
    def broadcast(tensor: torch.Tensor, src: int, group: object) -> None:
        raise RuntimeError("Timed out waiting for recv operation")

    monkeypatch.setattr(dist, "new_group", lambda ranks, timeout: None)
    monkeypatch.setattr(dist, "broadcast", broadcast)
    both = layout.manifest.objects_of(0)[1]
    sharing = Sharing(rank)
    sharing.form(layout.manifest, None)
    with pytest.raises(GroupError, match=f"{told}.*Timed out"):
        sharing.exchange(both, torch.zeros(both.bytes, dtype=torch.uint8), BLOCK_BYTES)


class Part:
    """A part that is on its way, and how long it was waited for."""

    def __init__(self, waits: list[timedelta]) -> None:
        self._waits = waits

    def wait(self, timeout: timedelta) -> None:
        self._waits.append(timeout)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[timedelta]:
    """How long each part was waited for, in a group that gives nothing."""
    seen: list[timedelta] = []
    monkeypatch.setattr(dist, "new_group", lambda ranks, timeout: None)
    monkeypatch.setattr(dist, "broadcast", lambda *_, **options: Part(seen))
    return seen


def share_both(layout: Layout, deadline: float) -> None:
    """Exchange what both ranks hold."""
    both = layout.manifest.objects_of(0)[1]
    sharing = Sharing(0)
    sharing.form(layout.manifest, deadline)
    sharing.exchange(both, torch.zeros(both.bytes, dtype=torch.uint8), BLOCK_BYTES)


def test_each_part_is_waited_for_as_long_as_the_parts_before_it_left(
    layout: Layout, waits: list[timedelta]
) -> None:
    share_both(layout, time.monotonic() + 60)
    first, second = waits
    assert timedelta(0) < second < first <= timedelta(seconds=60)


def test_a_part_after_the_deadline_is_not_waited_for_without_limit(
    layout: Layout, waits: list[timedelta]
) -> None:
    share_both(layout, time.monotonic() - 1)
    assert set(waits) == {LEAST_WAIT}


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The process groups that there are, named by numbers."""
    alive: list[str] = []
    numbers = count()

    def new_group(ranks: list[int], timeout: object) -> str:
        alive.append(str(next(numbers)))
        return alive[-1]

    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.setattr(dist, "barrier", lambda: None)
    monkeypatch.setattr(dist, "get_backend", lambda group: dist.Backend.GLOO)
    monkeypatch.setattr(dist, "destroy_process_group", alive.remove)
    return alive


def test_a_peer_that_does_not_come_is_a_group_error(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new_group(ranks: list[int], timeout: object) -> None:
        raise RuntimeError("Gloo connectFullMesh failed")

    monkeypatch.setattr(dist, "new_group", new_group)
    with pytest.raises(GroupError, match="not all ranks began to load: Gloo"):
        Sharing(0).form(layout.manifest, None)


def test_a_group_is_waited_for_no_longer_than_the_deadline(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[timedelta] = []
    monkeypatch.setattr(dist, "new_group", lambda ranks, timeout: waits.append(timeout))
    Sharing(0, timeout_seconds=3600).form(layout.manifest, time.monotonic() + 60)
    assert all(LEAST_WAIT < wait <= timedelta(seconds=60) for wait in waits)


def form_twice(layout: Layout) -> None:
    sharing = Sharing(0)
    sharing.form(layout.manifest, None)
    sharing.form(layout.manifest, None)


def test_groups_of_an_earlier_load_end_with_the_next(layout: Layout, groups: list[str]) -> None:
    form_twice(layout)
    assert groups == ["1"]


def test_groups_of_an_earlier_load_last_until_all_ranks_have_left_it(
    layout: Layout, groups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def barrier() -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(dist, "barrier", barrier)
    with pytest.raises(GroupError, match="not all ranks began to load: Connection closed"):
        form_twice(layout)
    assert groups == ["0", "1"]


def test_groups_end_with_what_shares_those_too_that_outlived_a_load(
    layout: Layout, groups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def barrier() -> None:
        raise RuntimeError("Connection closed by peer")

    sharing = Sharing(0)
    sharing.form(layout.manifest, None)
    monkeypatch.setattr(dist, "barrier", barrier)
    with pytest.raises(GroupError):
        sharing.form(layout.manifest, None)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    sharing.end()
    assert groups == []


def test_without_a_group_nothing_is_shared(layout: Layout) -> None:
    with pytest.raises(ConfigurationError, match="share_common: needs the process group"):
        load(layout, None)
