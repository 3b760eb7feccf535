"""A store whose process is stopped: its machine is there for TCP, and answers nothing.

For a client this is what a machine that vanished looks like: no reset, no end, no answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from shardedmodel_runtime.errors import GroupError
from shardedmodel_runtime.rank import store as store_module
from shardedmodel_runtime.rank.store import DistError, Store, connect, reach
from tests.builders.pods import eventually, free_port

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 30
"""Far more than the second that a call has below; without a bound a call never ends."""


class RemoteStore:
    """A store in a process of its own, which can be stopped."""

    def __init__(self) -> None:
        self.port = free_port()
        server = Path(__file__).with_name("stopped_store.py")
        self._process = subprocess.Popen(
            [sys.executable, str(server), str(self.port)], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            lines.readline()

    def connect(self, timeout: float = 5) -> Store:
        """Connect as a rank does."""
        return connect(("127.0.0.1", self.port), timeout, threading.Event())

    def stop_answering(self) -> None:
        """Stop the process, and leave its connections open."""
        os.kill(self._process.pid, signal.SIGSTOP)
        state = Path(f"/proc/{self._process.pid}/stat")
        eventually(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "stopped")

    def go_on(self) -> None:
        """Let the process go on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def process() -> Iterator[RemoteStore]:
    remote = RemoteStore()
    yield remote
    remote.kill()


@pytest.fixture
def remote(process: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    monkeypatch.setattr(store_module, "CALL_TIMEOUT", timedelta(seconds=1))
    yield process
    process.go_on()


def error_of(call: Callable[[], object]) -> BaseException | None:
    """Call in a thread, so that a call that never ends fails its test alone."""
    errors: list[BaseException | None] = []

    def target() -> None:
        try:
            call()
            errors.append(None)
        except (DistError, GroupError) as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert errors, f"the call did not end within {PATIENCE_SECONDS} s"
    return errors[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.check(["key"]),
        lambda store: store.compare_set("key", "", "value"),
        lambda store: store.get("key"),
        lambda store: store.set("key", "x" * 2**24),
    ],
    ids=["check", "compare_set", "get", "set"],
)
def test_a_call_ends_when_the_answer_does_not_come(
    remote: RemoteStore, call: Callable[[Store], object]
) -> None:
    store = remote.connect()
    remote.stop_answering()
    assert isinstance(error_of(lambda: call(store)), DistError)


def test_connecting_ends_when_the_store_accepts_and_does_not_answer(remote: RemoteStore) -> None:
    remote.stop_answering()
    error = error_of(lambda: remote.connect(timeout=0.1))
    assert "rank 0 is missing" in str(error)


def test_waiting_for_a_key_takes_its_own_time_and_not_that_of_an_answer(
    remote: RemoteStore,
) -> None:
    store = remote.connect()
    later = threading.Timer(2, lambda: remote.connect().set("late", "value"))
    later.start()
    store.wait(["late"], timedelta(seconds=20))
    assert store.get("late") == b"value"
    later.join()


def test_a_wait_under_way_is_ended_from_another_thread(remote: RemoteStore) -> None:
    long = timedelta(seconds=10 * PATIENCE_SECONDS)
    with reach(("127.0.0.1", remote.port), 5, threading.Event()) as connection:
        threading.Timer(0.5, connection.end).start()
        error = error_of(lambda: connection.store.wait(["never"], long))
    assert isinstance(error, DistError)
    assert remote.connect().check(["never"]) is False  # others go on
