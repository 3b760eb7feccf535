"""How commands that make a layout end when they are asked to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardedmodel_runtime.cli import arguments, main, running
from shardedmodel_runtime.errors import ShardedModelError
from shardedmodel_runtime.report import Failure
from shardedmodel_runtime.storage.local import LocalStore, LocalWriter
from shardedmodel_runtime.storage.options import StoreOptions
from shardedmodel_runtime.storage.reading import Reading
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.layout import Checkpoint, make_checkpoint

WAIT_SECONDS = 30.0
"""Longest wait of a store that hangs: a test that fails ends."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "source", "bert")


@pytest.fixture(autouse=True)
def _in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "UNDER_WAY_SECONDS", 0.1)


class Process:
    """This process: asked to end once, it keeps its exit code and goes on."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.ended = threading.Event()
        self._asked = threading.Lock()

    def ask_and_hang(self) -> None:
        """Ask for the end, as a kubelet does, and wait for it."""
        if self._asked.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGTERM)
        assert self.ended.wait(WAIT_SECONDS), "the process did not end"

    def exit(self, code: int) -> None:
        """Stand in for the end."""
        self.codes.append(code)
        self.ended.set()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    process = Process()
    monkeypatch.setattr(os, "_exit", process.exit)
    yield process
    process.ended.set()


def hang_at_each_part(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    write = LocalWriter.write_part

    def hang(writer: LocalWriter, index: int, data: bytes | bytearray) -> None:
        process.ask_and_hang()
        write(writer, index, data)

    monkeypatch.setattr(LocalWriter, "write_part", hang)


def run(checkpoint: Checkpoint, tmp_path: Path) -> tuple[int, Failure, list[Path]]:
    """Shard; gives the exit code, the failure and the files that are left."""
    storage, log = tmp_path / "shards", tmp_path / "log"
    command = ["shard", checkpoint.uri, storage.as_uri(), "--tensor", "2"]
    code = main([*command, "--termination-log", str(log)])
    left = [path for path in storage.rglob("*") if path.is_file()]
    return code, Failure.model_validate_json(log.read_bytes()), left


def test_a_job_that_waits_for_its_storage_is_ended_and_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang_at_each_part(process, monkeypatch)
    code, failure, left = run(checkpoint, tmp_path)
    assert (process.codes, code) == ([143], 143)
    assert (failure.reason, failure.retryable) == ("Terminated", True)
    assert left == []


def test_a_job_is_ended_also_where_nobody_reads_its_errors(
    checkpoint: Checkpoint, tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(error: ShardedModelError) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(running, "show_error", refuse)
    hang_at_each_part(process, monkeypatch)
    assert run(checkpoint, tmp_path)[1].reason == "Terminated"
    assert process.codes == [143]


def test_a_job_that_waits_for_its_source_is_ended(
    checkpoint: Checkpoint, tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(LocalStore):
        def read_range(
            self,
            key: str,
            start: int,
            into: memoryview,
            *,
            digest: str | None = None,
            reading: Reading | None = None,
        ) -> None:
            if start:  # no header
                process.ask_and_hang()
            super().read_range(key, start, into, digest=digest, reading=reading)

    def open_store(uri: str, options: StoreOptions) -> LocalStore:
        return Hanging(parse_uri(uri))

    monkeypatch.setattr(arguments, "open_store", open_store)
    code, failure, left = run(checkpoint, tmp_path)
    assert (process.codes, code) == ([143], 143)
    assert failure.reason == "Terminated"
    assert left == []


def test_a_job_whose_requests_end_ends_by_itself(
    checkpoint: Checkpoint, tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "UNDER_WAY_SECONDS", WAIT_SECONDS)
    write = LocalWriter.write_part

    def ask(writer: LocalWriter, index: int, data: bytes | bytearray) -> None:
        process.ended.set()
        process.ask_and_hang()
        write(writer, index, data)

    monkeypatch.setattr(LocalWriter, "write_part", ask)
    code, failure, _ = run(checkpoint, tmp_path)
    assert (process.codes, code) == ([], 143)
    assert failure.reason == "Terminated"
