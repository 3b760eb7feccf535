from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from shardedmodel_runtime.errors import ChecksumMismatch
from shardedmodel_runtime.rank import child as child_module
from shardedmodel_runtime.rank import supervisor
from shardedmodel_runtime.rank.child import Child, Process
from shardedmodel_runtime.rank.options import Place, RankOptions
from shardedmodel_runtime.rank.pipe import RankMessage
from shardedmodel_runtime.rank.supervisor import Supervisor, group_environment, merge_reports
from shardedmodel_runtime.report import (
    Failure,
    GroupReport,
    RankReport,
    RankState,
)

OPTIONS = RankOptions(layout="file:///shards/0123abcd", world_size=4, local_ranks=1)
WAITS = "import time; time.sleep(60)"


def message(rank: int, state: RankState = "ready", group: GroupReport | None = None) -> RankMessage:
    return RankMessage(rank=RankReport(rank=rank, state=state), group=group)


def start(code: str, said: RankMessage | None = None, pipe: bytes = b"") -> Child:
    """Start a stand-in for a rank process that has said ``said``, and then ``pipe``."""
    reading, writing = os.pipe()
    os.write(writing, pipe)
    os.close(writing)
    process = subprocess.Popen([sys.executable, "-S", "-c", code])
    child = Child(RankReport(rank=0), process, reading)
    if said is not None:
        child.hear(said)
    return child


def end(child: Child) -> None:
    child.process.kill()
    child.process.wait()


def test_ranks_share_the_variables_that_torch_expects() -> None:
    place = Place(master_addr="model-0.model", master_port=29500)
    environment = group_environment(OPTIONS, place, {})
    names = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [environment[n] for n in names] == ["4", "1", "model-0.model", "29500"]


def test_the_pods_own_variables_are_kept() -> None:
    given = {"AWS_REGION": "x", "TORCH_CPP_LOG_LEVEL": "INFO"}
    assert group_environment(OPTIONS, Place(), given).items() >= given.items()


def test_gloo_uses_the_interface_of_the_pods_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "interface_of", lambda address: f"eth-{address}")
    environment = group_environment(OPTIONS, Place(pod_ip="10.0.0.1"), {})
    assert environment["GLOO_SOCKET_IFNAME"] == "eth-10.0.0.1"


def test_the_users_choice_of_interface_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "interface_of", lambda _: "eth0")
    given = {"GLOO_SOCKET_IFNAME": "ib0"}
    environment = group_environment(OPTIONS, Place(pod_ip="10.0.0.1"), given)
    assert environment["GLOO_SOCKET_IFNAME"] == "ib0"


def test_before_ranks_know_their_group_the_pod_reports_its_own() -> None:
    child = start("", message(1, "starting"))
    end(child)
    report = merge_reports(OPTIONS, [child])
    assert (report.layout_hash, report.complete, [r.rank for r in report.ranks]) == (
        "0123abcd",
        False,
        [1],
    )


def test_rank_0_reports_the_whole_group() -> None:
    ranks = [RankReport(rank=rank) for rank in range(4)]
    whole = GroupReport(layout_hash="0123abcd", world_size=4, complete=True, ranks=ranks)
    child = start("", message(0, group=whole))
    end(child)
    assert merge_reports(OPTIONS, [child]) == whole


def test_another_pod_reports_all_its_ranks_and_what_they_know_of_the_group() -> None:
    group = GroupReport(layout_hash="0123abcd", world_size=4, incarnation=2, formed=True)
    children = [start("", message(rank, group=group)) for rank in (2, 3)]
    for child in children:
        end(child)
    report = merge_reports(OPTIONS, children)
    assert (report.incarnation, report.complete) == (2, False)
    assert [rank.rank for rank in report.ranks] == [2, 3]


def test_a_living_rank_is_ready_when_it_says_so() -> None:
    child = start(WAITS, message(0, "ready"))
    assert child.is_ready
    end(child)
    assert not child.is_ready


def test_a_living_rank_that_is_loading_is_healthy_and_not_ready() -> None:
    child = start(WAITS, message(0, "loading"))
    assert (child.is_healthy, child.is_ready) == (True, False)
    end(child)


def test_a_rank_that_fell_silent_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    child = start(WAITS, message(0, "ready"))
    monkeypatch.setattr(child_module, "SILENCE_SECONDS", 0.0)
    assert not child.is_healthy
    end(child)


@pytest.mark.parametrize("complete", [True, False])
def test_a_rank_that_was_ready_and_fell_silent_is_lost_and_its_group_not_formed(
    monkeypatch: pytest.MonkeyPatch, complete: bool
) -> None:
    ranks = [RankReport(rank=rank, state="ready") for rank in ((0, 1) if complete else (0,))]
    group = GroupReport(
        layout_hash="0123abcd", world_size=2, formed=True, complete=complete, ranks=ranks
    )
    child = start(WAITS, message(0, "ready", group))
    assert merge_reports(OPTIONS, [child]) == group
    monkeypatch.setattr(child_module, "READY_SILENCE_SECONDS", 0.0)
    report = merge_reports(OPTIONS, [child])
    assert not report.formed
    assert [rank.state for rank in report.ranks] == ["lost", "ready"][: len(ranks)]
    end(child)


def test_a_rank_that_is_silent_while_it_starts_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = start(WAITS, message(0, "starting"))
    monkeypatch.setattr(child_module, "READY_SILENCE_SECONDS", 0.0)
    assert child.report.state == "starting"
    end(child)


def test_a_rank_that_fell_silent_is_not_ready_long_before_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = start(WAITS, message(0, "ready"))
    monkeypatch.setattr(child_module, "READY_SILENCE_SECONDS", 0.0)
    assert (child.is_healthy, child.is_ready) == (True, False)
    end(child)


def test_what_is_no_message_is_passed_over() -> None:
    said = message(0, "loading").to_json().encode()
    child = start("", pipe=b"noise\n" + said + b"\n")
    child.process.wait()
    failure, _ = child.failure()
    assert (failure, child.message.rank.state) == (None, "loading")


def test_a_rank_that_told_its_failure_and_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LAST_WORDS_SECONDS", 0.0)
    told = Failure.of(ChecksumMismatch("block 1"))
    update = {"failure": told, "exit_code": 6}
    child = start(WAITS, message(0, "failed").model_copy(update=update))
    assert child.has_ended
    assert child.failure() == (told, 6)


def test_a_rank_that_told_its_failure_has_a_moment_to_end_by_itself() -> None:
    told = Failure.of(ChecksumMismatch("block 1"))
    child = start(WAITS, message(0, "failed").model_copy(update={"failure": told}))
    assert not child.has_ended
    end(child)


def test_a_pod_without_ranks_yet_is_not_ready() -> None:
    assert not Supervisor(OPTIONS, Place()).is_ready()


def test_a_process_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.1)
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('on', flush=True);" + WAITS
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        supervisor.end_all([process])
    assert process.returncode == -9


class Clock:
    """A clock that goes on only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class HeldByTheKernel:
    """A process that no signal ends."""

    pid = 1

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def terminate(self) -> None:
        """It is not taken."""

    kill = terminate

    def wait(self, timeout: float) -> int:
        self._clock.now += timeout
        raise subprocess.TimeoutExpired("rank", timeout)


def test_processes_that_never_end_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(child_module, "time", clock)
    supervisor.end_all([cast(Process, HeldByTheKernel(clock)) for _ in range(8)])
    assert clock.now < 5


def test_a_process_that_takes_sigterm_ends_by_it() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", WAITS])
    supervisor.end_all([process])
    assert process.returncode == -15


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_orphans_are_reaped_and_ranks_are_left_to_their_supervisor() -> None:
    known = subprocess.Popen([sys.executable, "-S", "-c", WAITS])
    orphan = os.fork()
    if orphan == 0:
        os._exit(3)

    def is_gone() -> bool:
        supervisor.reap_orphans({known.pid})
        return not Path(f"/proc/{orphan}").exists()

    until(is_gone)
    assert known.poll() is None
    supervisor.end_all([known])


def test_without_any_child_there_is_nothing_to_reap(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_children(*_: object) -> None:
        raise ChildProcessError

    monkeypatch.setattr(os, "waitid", no_children)
    supervisor.reap_orphans(set())
