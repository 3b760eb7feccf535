"""A part of the matrix of killed ranks; ``make kill-matrix`` goes through all of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.pods import COMMAND, PodGroup, eventually, free_port
from tests.faultproxy import campaign
from tests.faultproxy.campaign import Bench
from tests.faultproxy.faults import Kind
from tests.faultproxy.schedule import Plan
from tests.killmatrix import cells
from tests.killmatrix.phases import Phase
from tests.s3server import S3Server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bench(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("layouts")
    with campaign.bench(s3_server, folder, "ranks-that-end", cells.WORLD_SIZE) as bench:
        yield bench


@pytest.mark.parametrize(("phase", "rank"), [(Phase.LOAD, 1), (Phase.BARRIER, 0)])
def test_a_rank_killed_on_the_way_comes_back_and_no_other_reads_a_byte_again(
    bench: Bench, tmp_path: Path, phase: Phase, rank: int
) -> None:
    assert cells.kill(bench, tmp_path, phase, rank).incarnation == 1


def test_sigterm_ends_a_rank_in_the_middle_of_its_load(bench: Bench, tmp_path: Path) -> None:
    assert cells.terminate(bench, tmp_path, Phase.LOAD, 1) < cells.END_SECONDS


def test_sigterm_ends_a_pod_as_soon_as_python_runs_in_it(tmp_path: Path) -> None:
    # It waits for rank 0, which nobody starts, and so does not end by itself.
    command = [COMMAND, "rank", f"file://{tmp_path}", "--port", "0", "--world-size", "2"]
    place = {"POD_NAME": "model-1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    apart = ["unshare", "--pid", "--fork", "--kill-child"]
    with subprocess.Popen([*apart, *command], env=unmeasured() | place) as outside:
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        eventually(lambda: bool(children.read_text()), "started")
        pid = int(children.read_text())
        eventually(lambda: signal.SIGTERM in handled_by(pid), "handling signals")
        os.kill(pid, signal.SIGTERM)
        try:
            assert outside.wait(cells.END_SECONDS) in {0, 143}
        finally:
            outside.kill()


def unmeasured() -> dict[str, str]:
    """The environment without what has coverage measured in other processes.

    Its own handler of SIGTERM hands the signal on as one without a handler, which process 1 never
    gets.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def handled_by(pid: int) -> set[int]:
    """The signals that a process has handlers for."""
    (line,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return {number for number in range(1, 65) if int(line, 16) >> (number - 1) & 1}


def test_a_load_that_takes_too_long_ends_by_its_deadline(bench: Bench, tmp_path: Path) -> None:
    bench.proxy.hold(bench.layout.manifest.objects_of(1)[0].key)
    with cells.pods(bench, tmp_path, "--deadline-seconds", "1") as group:
        group.start_all()
        code, failure = group.pods[1].failure()
    assert (code, failure.reason, failure.retryable) == (5, "Unavailable", True)
    assert "did not end within its deadline" in failure.message


@pytest.fixture
def group(bench: Bench, tmp_path: Path) -> Iterator[PodGroup]:
    with cells.pods(bench, tmp_path, "--join-timeout-seconds", "5") as group:
        yield group


def test_a_group_that_stalls_names_who_is_missing(group: PodGroup) -> None:
    for rank in (0, 1):
        group.start(rank)
    code, failure = group.pods[0].failure()
    assert (code, failure.reason, failure.retryable) == (7, "GroupError", True)
    assert "1 of 3 ranks are missing after 5 s: 2; look at their pods" in failure.message


def test_a_shard_that_is_wrong_in_the_store_is_never_ready(bench: Bench, group: PodGroup) -> None:
    bench.proxy.use(Plan(kinds=(Kind.FLIPPED_BIT,), share=1.0, burst=None))
    group.start(0)
    code, failure = group.pods[0].failure()
    bench.proxy.use(Plan())
    assert (code, failure.reason) == (6, "ChecksumMismatch")
