from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devcluster import processes
from tests.devcluster.errors import ComponentError
from tests.devcluster.processes import Process, Supervisor
from tests.devcluster.settings import Slot


@pytest.fixture
def sleeper() -> Iterator[Process]:
    with subprocess.Popen(["sleep", "60"]) as child:
        yield Process.of(child.pid)
        child.kill()


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Supervisor:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return Supervisor(Slot(9))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    own = Process.of(os.getpid())
    own.save(tmp_path / "pids" / "own.json")
    assert Process.load(tmp_path / "pids" / "own.json") == own


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1}'])
def test_a_broken_record_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert Process.load(tmp_path / "x.json") is None
    assert Process.load(tmp_path / "absent.json") is None


def test_another_process_with_the_same_pid_is_not_taken_for_it(sleeper: Process) -> None:
    assert sleeper.is_alive()
    earlier = dataclasses.replace(sleeper, started=sleeper.started - 1)
    assert not earlier.is_alive()
    processes.end([earlier], grace=0)
    assert sleeper.is_alive()


@pytest.mark.parametrize("grace", [0.0, 5.0])
def test_processes_are_ended(sleeper: Process, grace: float) -> None:
    assert processes.end([sleeper], grace) == []
    # It is a zombie until its parent asks for it.
    assert not sleeper.is_alive()


def test_a_component_is_started_found_and_stopped(supervisor: Supervisor) -> None:
    supervisor.start("sleeper", ["/bin/sleep", "60"])
    process = supervisor.process("sleeper")
    assert process is not None
    assert supervisor.names() == ["sleeper"]
    assert supervisor.marked() == [process]
    supervisor.stop("sleeper")
    assert supervisor.process("sleeper") is None
    assert supervisor.names() == []


def test_a_component_without_a_record_is_found_and_ended(supervisor: Supervisor) -> None:
    supervisor.start("sleeper", ["/bin/sleep", "60"])
    (supervisor.slot.pids / "sleeper.json").unlink()
    assert len(supervisor.marked()) == 1
    assert supervisor.end_all() == []
    assert supervisor.marked() == []


def test_what_a_component_prints_is_in_its_log(supervisor: Supervisor) -> None:
    supervisor.start("talker", ["/bin/sh", "-c", "echo out; echo err >&2; exec sleep 60"])
    log = supervisor.log("talker")
    while "err" not in log.read_text():
        assert supervisor.process("talker")
    supervisor.stop("talker")
    assert log.read_text() == "out\nerr\n"


def test_without_a_node_nothing_runs_in_it(supervisor: Supervisor) -> None:
    with pytest.raises(ComponentError, match="node does not run"):
        supervisor.in_node(["true"])
