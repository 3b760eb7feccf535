"""Reads in parallel, against a store that stalls, fails and changes on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shardedmodel_runtime.errors import ChecksumMismatch, SourceChanged, Throttled, Unavailable
from shardedmodel_runtime.loading import hedging
from shardedmodel_runtime.loading.arena import Arena, HostArena
from shardedmodel_runtime.loading.fetch import Fetcher
from shardedmodel_runtime.loading.runs import Progress, Run, runs_of
from shardedmodel_runtime.loading.terms import Terms
from shardedmodel_runtime.loading.window import Window
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.reading import Cancelled, Reading
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.rank_layout import BLOCK_BYTES, Layout, small_model, write_layout

Read = Callable[[int, memoryview, Reading], None]
"""What a test does instead of one read: start, into, reading."""


class ScriptedStore(LocalStore):
    """Reads of ranges that begin at some byte are the test's own, one script for each attempt."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(parse_uri(layout.uri))
        self.scripts: dict[int, list[Read]] = {}

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        assert reading is not None
        scripts = self.scripts.get(start, [])
        if scripts:
            scripts.pop(0)(start, into, reading)
        else:
            super().read_range(key, start, into, digest=digest, reading=reading)


class Stall:
    """A read that hangs after some wrong bytes have landed, until it is ended."""

    def __init__(self, digest: str) -> None:
        self.ended = threading.Event()
        self._digest = digest

    def __call__(self, start: int, into: memoryview, reading: Reading) -> None:
        stopped = threading.Event()
        with reading.landing(self._digest, stopped.set):
            into[0] ^= 0xFF
            stopped.wait(30)
            into[1] ^= 0xFF
        self.ended.set()
        reading.check()


@dataclass
class Load:
    """One object's load, and what came of it."""

    layout: Layout
    store: ScriptedStore
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.item = self.layout.manifest.objects[0]
        self.arena = HostArena(self.item.bytes)

    def run(self, deadline: float | None = None, window: Window | None = None) -> bytes:
        terms = Terms(BLOCK_BYTES, BLOCK_BYTES, True, 8, self.progress, deadline)
        fetcher = Fetcher(self.store, terms, window or Window(8))
        work: list[tuple[Run, Arena]] = [
            (run, self.arena) for run in runs_of(self.item, BLOCK_BYTES, BLOCK_BYTES)
        ]
        fetcher.fetch_all(work)
        return bytes(self.arena.tensor.numpy().data)

    @property
    def last(self) -> int:
        """Where the last block begins."""
        return (len(self.item.blocks) - 1) * BLOCK_BYTES

    @property
    def digest(self) -> str:
        return self.store.describe(self.item.key).digest

    @property
    def content(self) -> bytes:
        return (self.layout.folder / self.item.key).read_bytes()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.setattr(hedging, "LEAST_SECONDS", 0.01)
    layout = write_layout(tmp_path, 1, small_model(512))
    return Load(layout, ScriptedStore(layout))


def fail_with(error: Exception) -> Read:
    def read(start: int, into: memoryview, reading: Reading) -> None:
        raise error

    return read


def give_threads(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    left, start = [None] * count, threading.Thread.start

    def limited(self: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)


def test_a_load_goes_on_with_the_threads_that_the_system_gives(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_threads(monkeypatch, 2)
    assert load.run() == load.content


def test_a_load_for_which_the_system_gives_no_thread_says_so(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_threads(monkeypatch, 0)
    with pytest.raises(Unavailable, match="can't start new thread; give the pod more processes"):
        load.run()


def test_a_range_that_hangs_is_asked_for_a_second_time(load: Load) -> None:
    stall = Stall(load.digest)
    load.store.scripts[BLOCK_BYTES] = [stall]
    assert load.run() == load.content
    assert load.progress.hedges == 1


def test_no_byte_of_a_read_that_lost_lands_after_the_winner(load: Load) -> None:
    stall = Stall(load.digest)
    load.store.scripts[0] = [stall]
    loaded = load.run()
    assert stall.ended.is_set()
    assert loaded == load.content == bytes(load.arena.tensor.numpy().data)


def test_a_read_that_lost_before_its_answer_never_touches_the_memory(load: Load) -> None:
    answered, ended = threading.Event(), threading.Event()

    def late(start: int, into: memoryview, reading: Reading) -> None:
        answered.wait(30)
        try:
            with reading.landing(load.digest, lambda: None):
                into[:] = bytes(len(into))
        finally:
            ended.set()

    load.store.scripts[0] = [late]
    loaded = load.run()
    answered.set()
    assert ended.wait(30)
    assert loaded == load.content == bytes(load.arena.tensor.numpy().data)


def test_a_second_request_that_fails_leaves_the_first_alone(load: Load) -> None:
    second_failed = threading.Event()

    def slow(start: int, into: memoryview, reading: Reading) -> None:
        assert second_failed.wait(30)
        into[:] = load.content[start : start + len(into)]

    def second(start: int, into: memoryview, reading: Reading) -> None:
        second_failed.set()
        raise Unavailable("gone")

    load.store.scripts[0] = [slow, second]
    assert load.run() == load.content


def test_a_range_whose_reads_all_fail_fails_the_load(load: Load) -> None:
    load.store.scripts[0] = [fail_with(Unavailable("gone"))]
    with pytest.raises(Unavailable, match="gone"):
        load.run()


def test_a_load_past_its_deadline_does_not_wait_for_what_hangs(load: Load) -> None:
    stall, also = Stall(load.digest), Stall(load.digest)
    load.store.scripts[0] = [stall, also]
    with pytest.raises(Unavailable, match=r"deadline: 1 range is missing"):
        load.run(deadline=time.monotonic() + 0.2)
    assert stall.ended.wait(30)


def test_a_load_past_its_deadline_tells_what_went_wrong_last(load: Load) -> None:
    def fails_and_hangs(start: int, into: memoryview, reading: Reading) -> None:
        reading.failed(Unavailable("could not connect to the endpoint"))
        Stall(load.digest)(start, into, reading)

    load.store.scripts[0] = [fails_and_hangs, Stall(load.digest)]
    with pytest.raises(Unavailable, match="missing; could not connect to the endpoint"):
        load.run(deadline=time.monotonic() + 0.2)


def test_the_first_error_ends_reads_that_hang(load: Load) -> None:
    stall = Stall(load.digest)
    load.store.scripts[0] = [stall]
    load.store.scripts[BLOCK_BYTES] = [fail_with(SourceChanged("changed"))]
    with pytest.raises(SourceChanged):
        load.run()
    assert stall.ended.wait(30)


def test_a_read_that_ends_after_its_load_has_failed_does_not_count(load: Load) -> None:
    failed, readers = threading.Event(), []

    def late(start: int, into: memoryview, reading: Reading) -> None:
        readers.append(threading.current_thread())
        assert failed.wait(30)
        into[:] = load.content[start : start + len(into)]

    load.store.scripts[0] = [late]
    load.store.scripts[load.last] = [fail_with(Unavailable("gone"))]
    with pytest.raises(Unavailable):
        load.run(window=Window(2))
    before = load.progress.bytes_done
    failed.set()
    readers[0].join(30)
    assert load.progress.bytes_done == before


def test_an_object_that_changes_between_two_reads_is_noticed(load: Load) -> None:
    def other(start: int, into: memoryview, reading: Reading) -> None:
        with reading.landing("etag:other", lambda: None):
            into[:] = load.content[start : start + len(into)]

    load.store.scripts[load.last] = [other]
    with pytest.raises(SourceChanged, match="changed while it was being loaded"):
        load.run(window=Window(1))


def test_a_block_spoiled_by_a_second_request_too_is_a_mismatch(load: Load) -> None:
    def spoil(start: int, into: memoryview, reading: Reading) -> None:
        into[:] = bytes(len(into))

    load.store.scripts[0] = [Stall(load.digest), spoil, spoil, spoil]
    with pytest.raises(ChecksumMismatch):
        load.run()


def test_throttling_shrinks_the_window_and_is_counted(load: Load) -> None:
    def throttled(start: int, into: memoryview, reading: Reading) -> None:
        reading.failed(Throttled("SlowDown"))
        into[:] = load.content[start : start + len(into)]

    load.store.scripts[load.last] = [throttled]
    window = Window(4)
    assert load.run(window=window) == load.content
    assert (load.progress.throttled, window.size) == (1, 2)


def test_a_bug_in_a_reading_thread_ends_the_load_with_its_error(load: Load) -> None:
    load.store.scripts[0] = [fail_with(ZeroDivisionError("bug"))]
    with pytest.raises(ZeroDivisionError):
        load.run()


def test_reading_threads_do_not_keep_a_process_from_ending(load: Load) -> None:
    daemons: list[bool] = []

    def look(start: int, into: memoryview, reading: Reading) -> None:
        daemons.append(threading.current_thread().daemon)
        into[:] = load.content[start : start + len(into)]

    load.store.scripts[0] = [look]
    load.run()
    assert daemons == [True]


def test_a_reading_that_was_ended_stays_ended() -> None:
    reading = Reading()
    reading.cancel()
    with pytest.raises(Cancelled), reading.landing("digest", lambda: None):
        pytest.fail("bytes landed")
    with pytest.raises(Cancelled):
        reading.sleep(30)
