from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devcluster import cgroups
from tests.devcluster.settings import Slot

POD = "burstable/pod0c0ffee"


@pytest.fixture
def kubepods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The groups of pods of slot 9, in a hierarchy of version 1."""
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    return tmp_path / "memory" / Slot(9).cgroup / "kubepods"


@pytest.fixture
def younger() -> Iterator[int]:
    """A process that was started after this one."""
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child.pid
        child.kill()


def put(kubepods: Path, container: str, *pids: int) -> None:
    folder = kubepods / container
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))


def test_processes_of_a_pod_are_found_in_the_order_of_their_starts(
    kubepods: Path, younger: int
) -> None:
    put(kubepods, f"{POD}/container", younger, os.getpid())
    put(kubepods, "burstable/podother/container", 1)
    assert cgroups.pod_processes(Slot(9), "0c0ffee") == [os.getpid(), younger]


def test_a_process_that_has_ended_is_left_out(kubepods: Path) -> None:
    put(kubepods, f"{POD}/container", 2**30, os.getpid())
    assert cgroups.pod_processes(Slot(9), "0c0ffee") == [os.getpid()]


def test_the_pause_container_is_left_out(kubepods: Path, tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    pause.symlink_to("/bin/cat")
    with subprocess.Popen([pause], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        assert child.stdout
        # The kernel gives the program its name after Popen returns: an echo comes later still.
        child.stdin.write(b"started\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"started\n"
        put(kubepods, f"{POD}/sandbox", child.pid)
        assert cgroups.pod_processes(Slot(9), "0c0ffee") == []
        child.kill()


def test_a_pod_that_is_not_there_has_no_processes(kubepods: Path) -> None:
    kubepods.mkdir(parents=True)
    assert cgroups.pod_processes(Slot(9), "0c0ffee") == []
