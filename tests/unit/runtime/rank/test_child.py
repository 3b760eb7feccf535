from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from shardedmodel_runtime.errors import ChecksumMismatch, GroupError
from shardedmodel_runtime.rank import child
from shardedmodel_runtime.rank.child import describe_end
from shardedmodel_runtime.rank.options import Place, RankOptions
from shardedmodel_runtime.rank.pipe import RankMessage
from shardedmodel_runtime.report import Failure, RankReport

SILENT = RankMessage(rank=RankReport(rank=3, peak_memory_bytes=7 * 2**20))


def test_a_rank_that_ended_well_has_no_failure() -> None:
    assert describe_end(SILENT, 0) == (None, 0)


def test_a_failure_that_the_rank_told_is_taken_with_its_exit_code() -> None:
    failure = Failure.of(ChecksumMismatch("block 1"))
    message = SILENT.model_copy(update={"failure": failure, "exit_code": 6})
    assert describe_end(message, 6) == (failure, 6)


def test_a_failure_keeps_its_exit_code_when_the_process_had_to_be_killed() -> None:
    failure = Failure.of(ChecksumMismatch("block 1"))
    message = SILENT.model_copy(update={"failure": failure, "exit_code": 6})
    assert describe_end(message, -signal.SIGKILL) == (failure, 6)


def test_a_process_that_the_kernel_holds_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held(subprocess.Popen[bytes]):
        def kill(self) -> None:
            """Nothing happens."""

    monkeypatch.setattr(child, "KILL_SECONDS", 0.01)
    process = Held([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    child.kill([process])
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_rank_for_which_the_system_gives_no_process_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    open_before = os.listdir("/proc/self/fd")
    options = RankOptions(layout="file:///layout", world_size=2, local_ranks=2)
    with pytest.raises(GroupError, match=r"rank 1: its process .* give the pod more processes"):
        child.spawn(options, Place(pod="m-0"), {}, 1, 1)
    assert os.listdir("/proc/self/fd") == open_before


def test_a_rank_that_was_killed_may_have_run_out_of_memory() -> None:
    failure, code = describe_end(SILENT, -signal.SIGKILL)
    assert failure is not None
    assert (failure.reason, failure.retryable, code) == ("RankKilled", True, 137)
    assert "its peak was 7 MiB" in failure.message


def test_another_signal_is_named() -> None:
    failure, code = describe_end(SILENT, -signal.SIGSEGV)
    assert failure is not None
    assert (failure.message, code) == ("rank 3 was killed by SIGSEGV", 139)


def test_a_real_time_signal_is_told_by_its_number() -> None:
    failure, code = describe_end(SILENT, -40)
    assert failure is not None
    assert (failure.message, code) == ("rank 3 was killed by signal 40", 168)


def test_a_rank_that_ended_in_silence_points_to_its_log() -> None:
    failure, code = describe_end(SILENT, 9)
    assert failure is not None
    assert (failure.reason, code) == ("RankFailed", 9)
