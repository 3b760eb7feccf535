"""Real groups without Kubernetes: torchrun starts the ranks, gloo connects them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from safetensors.torch import save_file

from shardedmodel_runtime.report import GroupReport
from tests.builders_pods import free_port
from tests.builders_rank_layout import small_model, write_layout

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


@pytest.mark.parametrize("options", [(), ("share",)])
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


def test_a_manifest_that_never_comes_is_waited_for_as_long_as_a_load_may_take(
    tmp_path: Path,
) -> None:
    layout = write_layout(tmp_path, 2)
    script = tmp_path / "reading.py"
    script.write_text(RANK_0_READS_FOR_EVER)
    done = torchrun(2, str(script), "load", layout.uri, "--deadline-seconds", "2")
    assert done.returncode != 0
    assert "GroupError: rank 0 did not publish the layout's manifest within 2 s" in done.stderr
