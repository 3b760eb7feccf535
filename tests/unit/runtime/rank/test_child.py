from __future__ import annotations

import signal

from shardedmodel_runtime.errors import ChecksumMismatch
from shardedmodel_runtime.rank.child import describe_end
from shardedmodel_runtime.rank.pipe import RankMessage
from shardedmodel_runtime.report import Failure, RankReport

SILENT = RankMessage(rank=RankReport(rank=3, peak_memory_bytes=7 * 2**20))


def test_a_rank_that_ended_well_has_no_failure() -> None:
    assert describe_end(SILENT, 0) == (None, 0)


def test_a_failure_that_the_rank_told_is_taken_with_its_exit_code() -> None:
    failure = Failure.of(ChecksumMismatch("block 1"))
    message = SILENT.model_copy(update={"failure": failure})
    assert describe_end(message, 6) == (failure, 6)


def test_a_rank_that_was_killed_may_have_run_out_of_memory() -> None:
    failure, code = describe_end(SILENT, -signal.SIGKILL)
    assert failure is not None
    assert (failure.reason, failure.retryable, code) == ("RankKilled", True, 137)
    assert "its peak was 7 MiB" in failure.message


def test_another_signal_is_named() -> None:
    failure, code = describe_end(SILENT, -signal.SIGSEGV)
    assert failure is not None
    assert (failure.message, code) == ("rank 3 was killed by SIGSEGV", 139)


def test_a_rank_that_ended_in_silence_points_to_its_log() -> None:
    failure, code = describe_end(SILENT, 9)
    assert failure is not None
    assert (failure.reason, code) == ("RankFailed", 9)
