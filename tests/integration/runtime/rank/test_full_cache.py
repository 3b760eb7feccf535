"""A node's cache on a disk that is full for real: no cache, and somebody hears of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardedmodel_runtime.report import CACHE_TROUBLE
from tests.builders.operator import ModelBuilder
from tests.builders.pods import PodGroup
from tests.builders.rank_layout import write_layout
from tests.unit.operator.planning.steps import ready

pytestmark = pytest.mark.integration

DISK_BYTES = 4096
"""Less than any object of the layout."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of ``DISK_BYTES``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={DISK_BYTES},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def pods(tmp_path: Path, disk: Path) -> Iterator[PodGroup]:
    """Two pods whose cache is on that disk, started and ended with the test."""
    layout = write_layout(tmp_path / "layout", 2)
    assert min(item.bytes for item in layout.manifest.objects) > DISK_BYTES
    group = PodGroup(layout.uri, tmp_path, 2, arguments=("--cache", str(disk / "cache")))
    group.start_all()
    yield group
    group.stop()


def test_ranks_load_without_a_cache_whose_disk_is_full_and_an_event_says_so(
    pods: PodGroup, disk: Path
) -> None:
    pods.wait_ready()
    report = pods.pods[0].report
    full = f"{CACHE_TROUBLE}{disk / 'cache'}: No space left on device; loading goes on without it"
    assert [rank.message for rank in report.ranks] == [full] * 2
    assert [rank.bytes_done for rank in report.ranks] == [rank.bytes for rank in report.ranks]
    assert [path for path in disk.rglob("*") if path.suffix != ".lock" and path.is_file()] == []

    cluster = ready(ModelBuilder().with_workers(cache={"size": "2Gi"}))
    [name] = cluster.names("StatefulSet")
    named = [rank.model_copy(update={"pod": f"{name}-{rank.rank}"}) for rank in report.ranks]
    cluster.reports[name] = report.model_copy(update={"ranks": named})
    cluster.pass_time(600)
    cluster.settle()
    [told] = [event for event in cluster.events if event.reason == "CacheFailed"]
    assert "No space left on device" in told.message
    assert cluster.model.status.holds("Ready")
