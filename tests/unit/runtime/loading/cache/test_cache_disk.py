"""A cache whose disk hangs, whatever it is asked for, costs time and no load."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.storage.local import TEMPORARY_PREFIX
from tests.builders.cache import assert_loaded, entries, load
from tests.builders.rank_layout import Layout

HANGS_SECONDS = 30.0
"""More than any of these tests takes."""


class HangingCall:
    """Lets one of the system's calls hang for what is in a folder, or is it, until it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, folder: Path) -> None:
        self.answers = threading.Event()
        self._folder = folder
        self._call = getattr(os, name)
        call = self._hanging
        monkeypatch.setattr(os, name, lambda *arguments, **options: call(*arguments, **options))

    def _hanging(self, file: Any, *arguments: Any, **options: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else file
        if Path(path).is_relative_to(self._folder):
            self.answers.wait(HANGS_SECONDS)
        return self._call(file, *arguments, **options)


CALLS = ("mkdir", "open", "utime", "posix_fallocate", "pwrite", "replace", "unlink")


@pytest.mark.parametrize("call", CALLS)
def test_a_disk_that_hangs_in_any_call_is_given_up_for_the_store(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    if call == "utime":
        load(layout, folder)
    hanging = HangingCall(monkeypatch, call, folder)
    shard = load(layout, folder, deadline_seconds=2.0)
    hanging.answers.set()
    assert_loaded(shard, layout)
    assert "its disk did not answer in time" in shard.report.cache_error


def opened_in(folder: Path) -> list[str]:
    """What this process has open below a folder, removed or not."""
    files = Path("/proc/self/fd")
    targets = []
    for name in os.listdir(files):
        with suppress(OSError):  # another thread has closed it
            targets.append(os.readlink(files / name))
    return [target for target in targets if target.startswith(f"{folder}/")]


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_what_a_disk_takes_too_late_becomes_no_entry_and_leaves_nothing(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    hanging = HangingCall(monkeypatch, call, folder)
    load(layout, folder, deadline_seconds=2.0)
    hanging.answers.set()
    until = time.monotonic() + HANGS_SECONDS
    while opened_in(folder) and time.monotonic() < until:
        time.sleep(0.01)
    assert opened_in(folder) == []
    assert list(folder.glob(f"{TEMPORARY_PREFIX}*")) == []
    assert entries(folder) == set()
