"""Real groups without Kubernetes: torchrun starts the ranks, gloo connects them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed import HashStore  # type: ignore[attr-defined]

from shardedmodel_runtime import cli
from shardedmodel_runtime.errors import ConfigurationError, GroupError, LayoutNotFound
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.rank.group import leave
from shardedmodel_runtime.rank.launch import load_group
from shardedmodel_runtime.report import GroupReport
from tests.builders.pods import free_port
from tests.builders.rank_layout import small_model, write_layout

pytestmark = pytest.mark.integration

SECONDS = 120
"""Longest time of one launch: importing torch takes most of it."""
RANK_1_HANGS = """
import os, sys, time
from shardedmodel_runtime.cli import main
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader

if os.environ["RANK"] == "1":
    DistributedCheckpointLoader.load = lambda *arguments, **options: time.sleep(600)
sys.exit(main())
"""
"""The command, whose rank 1 sleeps instead of loading."""
RANK_1_NEVER_COMES = """
import os, sys, time
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.rank.launch import Launch, load_group

if os.environ["RANK"] == "1":
    time.sleep(600)
launch = Launch.from_environment()
config = ModelLoadConfig(layout=sys.argv[1], device="cpu", **launch.model_dump())
load_group(config, join_timeout_seconds=2)
"""
"""A load whose rank 1 sleeps before it has met the other."""
RANK_1_FAILS_AT_FIRST = """
import sys
from shardedmodel_runtime.errors import ConfigurationError, GroupError, StorageError
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader
from shardedmodel_runtime.rank.launch import Launch, load_group

def fails(*arguments, **options):
    raise StorageError("away")

launch = Launch.from_environment()
loads = DistributedCheckpointLoader.load
for number, seconds in enumerate([2, 60]):
    is_well = launch.rank == 0 or number == 1
    has_met = sys.argv[2] == "later"
    DistributedCheckpointLoader.load = loads if is_well else fails
    config = ModelLoadConfig(
        layout=sys.argv[1] if is_well or has_met else "nowhere://layout",
        device="cpu",
        share_common=True,
        deadline_seconds=seconds,
        **launch.model_dump(),
    )
    try:
        load_group(config, join_timeout_seconds=60 if has_met else seconds)
        outcome = "loaded"
    except (ConfigurationError, GroupError, StorageError) as error:
        outcome = error.reason
    print(f"load {number} of rank {launch.rank}: {outcome}\\n", end="")
"""
"""Two loads, of which the first fails on rank 1, before the ranks have met or later, and the other
waits for it then."""
RANK_0_READS_FOR_EVER = """
import sys, time
from shardedmodel_runtime.cli import main
from shardedmodel_runtime.rank import launch

launch.read_manifest = lambda *arguments, **options: time.sleep(600)
sys.exit(main())
"""
"""The command, whose rank 0 never has the manifest."""


def torchrun(
    ranks: int, *command: str, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Start ranks on this machine."""
    arguments = ["--nproc-per-node", str(ranks), "--master-addr", "127.0.0.1"]
    arguments += ["--master-port", str(free_port()), *command]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_torchrun_loads_all_ranks_of_a_layout_and_rank_0_reports_them(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2)
    done = torchrun(2, "-m", "shardedmodel_runtime", "load", layout.uri, "--json")
    assert done.returncode == 0, done.stderr
    group = GroupReport.model_validate_json(done.stdout)
    assert [(r.rank, r.bytes, r.bytes_done, r.bytes_read) for r in group.ranks] == [
        (rank, *[layout.manifest.rank_bytes(rank)] * 3) for rank in range(2)
    ]
    assert group.load_skew is not None
    assert group.load_skew >= 1


@pytest.mark.parametrize("options", [(), ("share",), ("formed",)])
def test_a_shard_is_dtensors_whose_whole_is_the_checkpoint(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    layout = write_layout(tmp_path, 2)
    save_file(small_model(), tmp_path / "whole.safetensors")
    script = Path(__file__).with_name("ranks_for_torchrun.py")
    whole = str(tmp_path / "whole.safetensors")
    done = torchrun(2, str(script), layout.uri, whole, *options)
    assert done.returncode == 0, done.stderr


def test_a_layout_for_more_ranks_ends_all_with_its_reason(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 4)
    done = torchrun(2, "-m", "shardedmodel_runtime", "load", layout.uri)
    assert done.returncode != 0
    assert "cut for 4 ranks" in done.stderr


def test_a_rank_that_hangs_is_named_once_a_load_may_take_no_longer(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2)
    script = tmp_path / "hanging.py"
    script.write_text(RANK_1_HANGS)
    done = torchrun(2, str(script), "load", layout.uri, "--deadline-seconds", "2")
    assert done.returncode != 0
    assert "GroupError: 1 of 2 ranks have not loaded 2 s after rank 0: 1;" in done.stderr


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    script = tmp_path / "sleeping.py"
    script.write_text(RANK_1_NEVER_COMES)
    done = torchrun(2, str(script), write_layout(tmp_path, 2).uri)
    assert done.returncode != 0
    assert "GroupError: 1 of 2 ranks have not joined 2 s after rank 0: 1;" in done.stderr


@pytest.mark.parametrize(
    ("fails", "reason"), [("before", "ConfigurationError"), ("later", "StorageError")]
)
def test_ranks_meet_in_the_next_load_where_one_failed_before_the_others(
    tmp_path: Path, fails: str, reason: str
) -> None:
    script = tmp_path / "failing.py"
    script.write_text(RANK_1_FAILS_AT_FIRST)
    done = torchrun(2, str(script), write_layout(tmp_path, 2).uri, fails)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "load 0 of rank 0: GroupError",
        f"load 0 of rank 1: {reason}",
        "load 1 of rank 0: loaded",
        "load 1 of rank 1: loaded",
    ]


def test_a_store_that_is_not_where_it_should_be_is_not_waited_for_longer_than_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    layout = write_layout(tmp_path, 2).uri
    config = ModelLoadConfig(layout=layout, world_size=2, rank=1, device="cpu")
    with pytest.raises(GroupError, match=r"did not form at 127.0.0.1:\d+, where MASTER_ADDR"):
        load_group(config, join_timeout_seconds=0.5)


def test_ranks_that_do_not_come_are_named_also_where_no_launcher_serves_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    layout = write_layout(tmp_path, 3).uri
    config = ModelLoadConfig(layout=layout, world_size=3, rank=0, device="cpu")
    with pytest.raises(GroupError, match=r"2 of 3 ranks have not joined .* rank 0: 1, 2;"):
        load_group(config, join_timeout_seconds=0.5)


def test_ranks_form_their_group_also_where_no_launcher_serves_a_store(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shardedmodel_runtime", "load", "--json"]
    command.append(write_layout(tmp_path, 2).uri)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | group | {"RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    reports = [rank.communicate(timeout=SECONDS)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert [r.rank for r in GroupReport.model_validate_json(reports[0]).ranks] == [0, 1]


def test_what_torch_says_of_its_attempts_is_not_in_the_way_of_the_reason(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2).uri
    command = ["-m", "shardedmodel_runtime", "load", layout, "--join-timeout-seconds", "1"]
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | place | {"MASTER_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == GroupError.exit_code
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: GroupError: the group did not form at 127.0.0.1:")


def test_a_rank_loads_what_it_is_in_the_group_that_is_formed_already(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2).uri
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ConfigurationError, match=r"rank: 1 of 2 .* rank 0 of 1"):
            load_group(ModelLoadConfig(layout=layout, world_size=2, rank=1, device="cpu"))
    finally:
        leave()


def test_a_load_that_fails_leaves_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    assert cli.main(["load", tmp_path.as_uri()]) == LayoutNotFound.exit_code
    assert not dist.is_initialized()


def test_a_manifest_that_never_comes_is_waited_for_as_long_as_a_load_may_take(
    tmp_path: Path,
) -> None:
    layout = write_layout(tmp_path, 2)
    script = tmp_path / "reading.py"
    script.write_text(RANK_0_READS_FOR_EVER)
    done = torchrun(2, str(script), "load", layout.uri, "--deadline-seconds", "2")
    assert done.returncode != 0
    assert "GroupError: rank 0 did not publish the layout's manifest within 2 s" in done.stderr
