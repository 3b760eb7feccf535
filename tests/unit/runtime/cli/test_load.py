from __future__ import annotations

from pathlib import Path

import pytest

from shardedmodel_runtime.cli import main
from shardedmodel_runtime.cli.load import progress_text, table
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader
from shardedmodel_runtime.rank.launch import UnderWay
from shardedmodel_runtime.report import GroupReport, RankReport
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.rank_layout import write_layout


def test_a_layout_is_loaded_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = write_layout(tmp_path, 1)
    assert main(["load", layout.uri, "--device", "cpu"]) == 0
    header, row, summary = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["RANK", "DEVICE", "BYTES"]
    assert row.split()[:2] == ["0", "cpu"]
    assert summary.startswith("1 rank, ")


def test_json_is_the_report_of_the_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = write_layout(tmp_path, 1)
    assert main(["load", layout.uri, "--device", "cpu", "--json"]) == 0
    group = GroupReport.model_validate_json(capsys.readouterr().out)
    assert [rank.bytes_done for rank in group.ranks] == [layout.manifest.rank_bytes(0)]


def test_a_layout_for_more_ranks_says_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", write_layout(tmp_path, 2).uri, "--device", "cpu"]) == 2
    assert "cut for 2 ranks" in capsys.readouterr().err


def test_a_load_fills_the_cache_that_it_is_given(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", 1)
    cache = tmp_path / "cache"
    assert main(["load", layout.uri, "--device", "cpu", "--cache", str(cache)]) == 0
    assert {item.sha256 for item in layout.manifest.objects} <= {p.name for p in cache.iterdir()}


def test_a_load_under_way_tells_how_far_it_is_and_what_failed(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2)
    config = ModelLoadConfig(layout=layout.uri, world_size=2, device="cpu")
    with LocalStore(parse_uri(layout.uri)) as store:
        load = UnderWay(store, DistributedCheckpointLoader(config, store=store))
        assert progress_text(load) == f"waiting for the manifest of {layout.uri}"
        load.loader.progress.bytes, load.loader.progress.bytes_done = 2_000_000, 500_000
        assert progress_text(load) == "rank 0: 500.0 kB of 2.0 MB loaded"
        store.last_failure = "the store is away"
        assert progress_text(load).endswith(" loaded; last failure: the store is away")
        load.waits_for_ranks = True
        assert progress_text(load) == "waiting for the other ranks"


def test_the_table_tells_the_slowest_rank_and_the_rate_of_all() -> None:
    ranks = [
        RankReport(rank=0, bytes=10**9, bytes_done=10**9, seconds=1.0, loaded_at=1, throttled=7),
        RankReport(rank=1, bytes=10**9, bytes_done=10**9, seconds=2.0, loaded_at=2),
    ]
    text = table(GroupReport(layout_hash="h", world_size=2, ranks=ranks))
    assert "7" in text.splitlines()[1].split()
    assert "(1.00 GB/s together); slowest: rank 1, 1.33 of the median" in text
