"""The folder of a node's cache, however it is named: what is wrong with it never fails a load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shardedmodel_runtime.loading.cache import NodeCache
from shardedmodel_runtime.report import RankReport
from tests.builders.cache import assert_loaded, load
from tests.builders.rank_layout import Layout


def test_a_folder_may_be_named_by_a_way_around(layout: Layout, folder: Path) -> None:
    for hits in (0, 2):
        shard = load(layout, folder / ".." / folder.name)
        assert shard.report.cache_hits == hits


def test_a_folder_that_cannot_be_made_means_no_cache(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_text("a file")
    shard = load(layout, folder)
    assert_loaded(shard, layout)
    assert str(folder) in shard.report.cache_error


@pytest.mark.parametrize("name", ["back\\slash", "tab\tstop", "no\u00a0break", "100%25 #?"])
def test_a_folder_may_have_any_name(layout: Layout, folder: Path, name: str) -> None:
    for hits in (0, 2):
        assert load(layout, folder / name).report.cache_hits == hits


def test_a_link_to_itself_means_no_cache(layout: Layout, folder: Path) -> None:
    folder.symlink_to(folder)
    shard = load(layout, folder)
    assert_loaded(shard, layout)
    assert str(folder) in shard.report.cache_error


def test_a_report_takes_what_is_told_of_a_folder_with_a_long_name(folder: Path) -> None:
    folder.write_text("a file")
    long = folder / os.path.join(*(["x" * 99] * 10))
    error = NodeCache(long, None).error
    assert RankReport(rank=0, message=error).message.endswith("loading goes on without it")
