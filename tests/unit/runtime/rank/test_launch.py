from __future__ import annotations

import time
from pathlib import Path

import pytest
from torch.distributed import DistError, HashStore  # type: ignore[attr-defined]

from shardedmodel_runtime.errors import ConfigurationError, GroupError, Unavailable
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.rank import launch
from shardedmodel_runtime.rank.launch import Launch, exchange, load_group
from shardedmodel_runtime.report import RankReport
from shardedmodel_runtime.storage.local import LocalStore
from tests.builders.rank_layout import raw, write_layout


def test_without_a_launcher_a_process_is_the_only_rank() -> None:
    assert Launch.from_environment({}) == Launch(rank=0, world_size=1, local_rank=0)


def test_torchrun_says_who_a_process_is() -> None:
    environ = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "OTHER": "x"}
    assert Launch.from_environment(environ) == Launch(rank=5, world_size=8, local_rank=1)


def test_a_rank_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigurationError, match="rank: 'x'"):
        Launch.from_environment({"RANK": "x"})


@pytest.mark.parametrize("port", [None, "abc"])
def test_a_group_without_its_launcher_is_told_of_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: str | None
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    if port is not None:
        monkeypatch.setenv("MASTER_PORT", port)
    config = ModelLoadConfig(layout=write_layout(tmp_path, 2).uri, world_size=2, device="cpu")
    with pytest.raises(ConfigurationError, match=r"WORLD_SIZE is 2.*torchrun"):
        load_group(config)


def test_ranks_that_do_not_load_in_time_are_named() -> None:
    store = HashStore()
    with pytest.raises(GroupError, match=r"2 of 3 ranks have not loaded 0 s after rank 1: 0, 2;"):
        exchange(store, RankReport(rank=1, state="ready"), 3, patience_seconds=0.2)


def test_a_group_whose_store_goes_away_ends_in_its_own_error() -> None:
    class Gone(HashStore):
        def set(self, key: str, value: str) -> None:
            raise DistError("Broken pipe")

    with pytest.raises(GroupError, match="the group fell apart: Broken pipe"):
        exchange(Gone(), RankReport(rank=0, state="ready"), 2, patience_seconds=1)


def test_what_the_manifest_took_is_not_given_to_the_load_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path, 1)

    def late(*_: object, **options: object) -> Manifest:
        time.sleep(0.3)
        return layout.manifest

    monkeypatch.setattr(launch, "read_manifest", late)
    monkeypatch.setattr(LocalStore, "read_range", lambda *_, **options: time.sleep(0.1))
    config = ModelLoadConfig(
        layout=layout.uri, device="cpu", map_files=False, deadline_seconds=0.25
    )
    with pytest.raises(Unavailable, match="did not end within its deadline"):
        load_group(config)


def test_a_rank_that_is_alone_needs_no_group(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 1)
    shard, group = load_group(ModelLoadConfig(layout=layout.uri, device="cpu"))
    assert raw(shard.state_dict["norm.weight"]) == raw(layout.expected[0]["norm.weight"])
    (report,) = group.ranks
    assert report.bytes == report.bytes_done == report.bytes_read
    assert (report.state, report.read_amplification) == ("ready", 1.0)
