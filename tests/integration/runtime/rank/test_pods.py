"""Real rank pods as processes: real groups over loopback, killed and restarted for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shardedmodel_runtime.loading.cache import WORTH_SHARING_BYTES
from shardedmodel_runtime.rank.shared_memory import PREFIX, ROOT
from tests.builders.pods import PodGroup, eventually
from tests.builders.rank_layout import BLOCK_BYTES, Layout, raw, small_model, write_layout
from tests.integration.runtime.conftest import Bucket

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
Run = Callable[..., PodGroup]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start the pods of a group, and end them with the test."""
    groups: list[PodGroup] = []

    def start(layout: Layout, uri: str = "", **options: Any) -> PodGroup:
        world_size = layout.manifest.world_size
        group = PodGroup(uri or layout.uri, tmp_path, world_size, **options)
        groups.append(group)
        group.start_all()
        return group

    yield start
    for group in groups:
        group.stop()


def test_four_ranks_in_two_pods_run_an_entrypoint_with_their_tensors_and_group(
    tmp_path: Path, run: Run
) -> None:
    layout = write_layout(tmp_path / "layout", 4)
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    group = run(
        layout,
        local_ranks=2,
        arguments=("--entrypoint", "entrypoint_for_pods:dump"),
        environment={"PYTHONPATH": str(HERE), "DUMP_FOLDER": str(dumps)},
    )
    group.wait_ready()
    eventually(lambda: len(list(dumps.glob("*/sum"))) == 4, "dumped")
    report = group.pods[0].report
    assert (report.formed, report.complete, len(report.ranks)) == (True, True, 4)
    assert [rank.bytes_read for rank in report.ranks] == [
        layout.manifest.rank_bytes(rank) for rank in range(4)
    ]
    assert not group.pods[1].report.complete
    assert [rank.rank for rank in group.pods[1].report.ranks] == [2, 3]
    for rank, expected in enumerate(layout.expected):
        held = {path.name: path.read_bytes() for path in (dumps / str(rank)).iterdir()}
        assert held.pop("sum") == b"6.0"  # 0 + 1 + 2 + 3, over the default process group
        assert held == {name: raw(tensor) for name, tensor in expected.items()}


def test_ranks_of_a_pod_read_what_both_hold_once_and_leave_nothing_in_memory(
    bucket: Bucket, run: Run, tmp_path: Path
) -> None:
    tensors = {"cut": torch.ones(64, 48), "common": torch.ones(WORTH_SHARING_BYTES // 4)}
    layout = write_layout(tmp_path / "layout", 2, tensors, common=("common",))
    before = set(ROOT.glob(f"{PREFIX}*"))
    group = run(
        layout,
        uri=bucket.upload(layout.folder, "layout"),
        local_ranks=2,
        arguments=("--endpoint-url", bucket.server.endpoint_url),
        environment=bucket.server.environment,
    )
    group.wait_ready()
    items = layout.manifest.objects
    assert sum(rank.bytes_read for rank in group.ranks()) == sum(item.bytes for item in items)
    assert sorted(rank.cache_hits for rank in group.ranks()) == [0, 1]
    eventually(lambda: set(ROOT.glob(f"{PREFIX}*")) <= before, "removed")


def test_a_lost_rank_comes_back_and_the_others_keep_their_weights(tmp_path: Path, run: Run) -> None:
    layout = write_layout(tmp_path / "layout", 2)
    group = run(layout)
    group.wait_ready()
    group.pods[1].kill_rank()
    eventually(lambda: group.ranks()[1].state == "lost", "lost")
    assert not group.pods[0].is_ready
    group.start(1)
    group.wait_ready()
    report = group.pods[0].report
    assert (report.incarnation, report.formed) == (1, True)
    assert [rank.bytes_read for rank in report.ranks] == [
        layout.manifest.rank_bytes(rank) for rank in range(2)
    ]


def test_rank_0_comes_back_and_the_others_keep_their_weights(tmp_path: Path, run: Run) -> None:
    layout = write_layout(tmp_path / "layout", 2)
    group = run(layout)
    group.wait_ready()
    group.pods[0].kill_rank()
    eventually(lambda: not group.pods[1].is_ready, "without rank 0")
    layout.object_path(1).unlink()  # what a survivor held could not be read again
    group.start(0)
    group.wait_ready()
    report = group.pods[0].report
    assert (report.incarnation, report.formed) == (1, True)
    assert report.ranks[1].bytes_read == layout.manifest.rank_bytes(1)


def test_weights_of_two_manifests_never_form_a_group(tmp_path: Path, run: Run) -> None:
    layout = write_layout(tmp_path / "latest", 2)
    other = write_layout(tmp_path / "other", 2, small_model(rows=128))
    group = run(layout)
    group.wait_ready()
    group.pods[0].kill_rank()
    layout.folder.rename(tmp_path / "former")
    other.folder.rename(layout.folder)
    group.start(0)
    code, failure = group.pods[1].failure()
    assert (code, failure.reason) == (7, "GroupError")
    assert "the layout was replaced while the group ran" in failure.message
    group.start(1)
    group.wait_ready()
    assert [rank.bytes for rank in group.ranks()] == [
        other.manifest.rank_bytes(rank) for rank in range(2)
    ]


def test_a_killed_rank_is_explained_in_the_termination_log(tmp_path: Path, run: Run) -> None:
    group = run(write_layout(tmp_path / "layout", 1))
    group.wait_ready()
    group.pods[0].kill_rank()
    code, failure = group.pods[0].failure()
    assert (code, failure.reason) == (137, "RankKilled")


def test_a_corrupt_block_ends_the_rank_which_is_never_ready(tmp_path: Path, run: Run) -> None:
    layout = write_layout(tmp_path / "layout", 1)
    path = layout.object_path(0)
    data = bytearray(path.read_bytes())
    data[BLOCK_BYTES] ^= 1
    path.write_bytes(data)
    group = run(layout)
    code, failure = group.pods[0].failure()
    assert (code, failure.reason, failure.retryable) == (6, "ChecksumMismatch", False)


def test_other_ranks_tell_why_rank_0_gave_up(tmp_path: Path, run: Run) -> None:
    layout = write_layout(tmp_path / "layout", 2)
    path = layout.object_path(0)
    data = bytearray(path.read_bytes())
    data[BLOCK_BYTES] ^= 1
    path.write_bytes(data)
    group = run(layout)
    assert group.pods[0].failure()[1].reason == "ChecksumMismatch"
    eventually(
        lambda: "waiting for rank 0's store" in group.pods[1].report.ranks[0].message, "told"
    )
    assert "rank 0 failed: " in group.pods[1].report.ranks[0].message


def test_sigterm_ends_a_pod_within_five_seconds(tmp_path: Path, run: Run) -> None:
    group = run(write_layout(tmp_path / "layout", 1))
    group.wait_ready()
    assert group.pods[0].get("/healthz")[0] == 200
    assert 'shardedmodel_rank_state{rank="0",state="ready"} 1.0' in group.pods[0].get("/metrics")[1]
    assert group.pods[0].terminate() < 5
    assert group.pods[0].process.returncode == 0
