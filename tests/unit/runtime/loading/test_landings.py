"""Memory that a hanging read may still write into is not given to another load."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.errors import ConfigurationError, Unavailable
from shardedmodel_runtime.loading import landings, loader
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.gathering import Gatherer
from shardedmodel_runtime.loading.landings import landing_alone, landing_in
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader, load
from shardedmodel_runtime.loading.shard import LoadedShard, memory_of
from tests.builders.rank_layout import BLOCK_BYTES, Layout, raw, small_model, write_layout

HANGS_SECONDS = 30.0
"""More than any of these tests takes."""
LATE_SECONDS = 0.3
"""More than a load takes that does not wait for a late read."""


class HangingFiles:
    """A file server that lets the first read of a layout's object hang until it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, layout: Path) -> None:
        self.answers = threading.Event()
        self.answered = threading.Event()
        self._left = [layout]
        self._read = os.preadv
        monkeypatch.setattr(os, "preadv", self._preadv)

    def _preadv(self, file: int, buffers: list[Any], offset: int) -> int:
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if self._left and path.is_relative_to(self._left[0]) and path.suffix == ".safetensors":
            self._left.pop()
            self.answers.wait(HANGS_SECONDS)
            count = self._read(file, buffers, offset)
            self.answered.set()
            return count
        return self._read(file, buffers, offset)


def config(layout: Layout, **fields: Any) -> ModelLoadConfig:
    return ModelLoadConfig(layout=layout.uri, device="cpu", map_files=False, **fields)


def fails_while_it_reads(layout: Layout, held: LoadedShard) -> None:
    with pytest.raises(Unavailable, match="within its deadline"):
        DistributedCheckpointLoader(config(layout, deadline_seconds=0.5)).load(into=held)


def test_memory_of_a_load_that_failed_is_refused_while_its_reads_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write_layout(tmp_path / "first", 1), write_layout(tmp_path / "second", 1)
    held = load(config(first))
    files = HangingFiles(monkeypatch, tmp_path / "first")
    fails_while_it_reads(first, held)
    monkeypatch.setattr(landings, "ENDING_SECONDS", 0.01)
    with pytest.raises(Unavailable, match="into: 1 reads of an earlier load"):
        DistributedCheckpointLoader(config(second)).load(into=held)
    files.answers.set()


def test_that_memory_holds_the_next_load_once_they_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_layout(tmp_path / "first", 1)
    other = {name: tensor + 1 for name, tensor in small_model().items()}
    second = write_layout(tmp_path / "second", 1, other)
    held = load(config(first))
    files = HangingFiles(monkeypatch, tmp_path / "first")
    fails_while_it_reads(first, held)
    files.answers.set()
    assert files.answered.wait(HANGS_SECONDS)

    loaded = DistributedCheckpointLoader(config(second)).load(into=held).state_dict

    assert {name: raw(tensor) for name, tensor in loaded.items()} == {
        name: raw(tensor) for name, tensor in second.expected[0].items()
    }


def test_memory_is_refused_while_a_load_hangs_that_had_not_begun_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path, 1)
    held = load(config(layout))
    answers = threading.Event()
    gather = Gatherer.gather

    def hanging(*arguments: Any) -> Any:
        answers.wait(HANGS_SECONDS)
        return gather(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Gatherer, "gather", hanging)
        patched.setattr(loader, "LAST_WORDS_SECONDS", 0.0)
        with pytest.raises(Unavailable, match="a call that it waits for does not return"):
            DistributedCheckpointLoader(config(layout, deadline_seconds=0.1)).load(into=held)
    monkeypatch.setattr(landings, "ENDING_SECONDS", 0.01)
    with pytest.raises(Unavailable, match="into: 1 reads of an earlier load"):
        DistributedCheckpointLoader(config(layout)).load(into=held)
    answers.set()


class SpoiltEntry:
    """An entry of a cache that is wrong in every block, of which all but the first come late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, entry: Path) -> None:
        self._asked = threading.Event()
        self.awaited = threading.Event()
        self.came = threading.Event()
        self._entry = entry
        self._read = os.preadv
        entry.write_bytes(b"\xee" * entry.stat().st_size)
        monkeypatch.setattr(os, "preadv", self._preadv)

    def _preadv(self, file: int, buffers: list[Any], offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{file}") != str(self._entry):
            return self._read(file, buffers, offset)
        if offset == 0:  # found to be wrong while the others are under way
            self._asked.wait(HANGS_SECONDS)
            return self._read(file, buffers, offset)
        self._asked.set()
        self.awaited.wait(LATE_SECONDS)
        count = self._read(file, buffers, offset)
        self.came.set()
        return count


def test_late_bytes_of_a_bad_entry_of_the_cache_do_not_land_on_those_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path / "layout", 1)
    cached = config(layout, cache=str(tmp_path / "cache"), range_bytes=BLOCK_BYTES)
    held = load(cached)
    spoilt = SpoiltEntry(monkeypatch, tmp_path / "cache" / layout.manifest.objects_of(0)[0].sha256)

    loaded = DistributedCheckpointLoader(cached).load(into=held).state_dict
    spoilt.awaited.set()

    assert spoilt.came.wait(HANGS_SECONDS)
    assert {name: raw(tensor) for name, tensor in loaded.items()} == {
        name: raw(tensor) for name, tensor in layout.expected[0].items()
    }


def test_a_bad_entry_of_which_a_read_hangs_ends_the_load_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path / "layout", 1)
    cached = config(layout, cache=str(tmp_path / "cache"), range_bytes=BLOCK_BYTES)
    held = load(cached)
    monkeypatch.setattr(f"{__name__}.LATE_SECONDS", HANGS_SECONDS)
    spoilt = SpoiltEntry(monkeypatch, tmp_path / "cache" / layout.manifest.objects_of(0)[0].sha256)

    with pytest.raises(Unavailable, match=r"reads of file://.*/cache hang and may still write"):
        DistributedCheckpointLoader(cached.model_copy(update={"deadline_seconds": 0.5})).load(
            into=held
        )
    spoilt.awaited.set()


def test_a_load_waits_for_reads_that_are_about_to_end(tmp_path: Path) -> None:
    memory = load(config(write_layout(tmp_path, 1))).memory[0]
    reading = threading.Event()

    def read() -> None:
        with landing_in(memory):
            reading.set()
            threading.Event().wait(0.05)

    thread = threading.Thread(target=read)
    thread.start()
    assert reading.wait(HANGS_SECONDS)
    with landing_alone(memory):
        pass
    thread.join()


def test_of_two_loads_at_once_into_the_same_memory_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path, 1)
    held = load(config(layout))
    both, last = threading.Barrier(2), threading.Event()
    gather = Gatherer.gather
    monkeypatch.setattr(landings, "ENDING_SECONDS", 0.01)

    def at_once(*arguments: Any) -> Any:
        found = memory_of(*arguments)
        both.wait(HANGS_SECONDS)
        return found

    def until_the_other_is_refused(*arguments: Any) -> Any:
        last.wait(HANGS_SECONDS)
        return gather(*arguments)

    def outcome(_: int) -> str:
        try:
            DistributedCheckpointLoader(config(layout)).load(into=held)
        except Unavailable as error:
            last.set()
            return error.message
        return ""

    monkeypatch.setattr(loader, "memory_of", at_once)
    monkeypatch.setattr(Gatherer, "gather", until_the_other_is_refused)
    with ThreadPoolExecutor(2) as threads:
        loaded, refused = sorted(threads.map(outcome, range(2)))
    assert loaded == ""
    assert refused.startswith("into: 1 reads of an earlier load, which failed or has not ended")


def test_memory_of_another_device_is_refused_by_its_name(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 1)
    held = load(config(layout))
    held.memory[:] = [tensor.to("meta") for tensor in held.memory]
    with pytest.raises(ConfigurationError, match="into: holds memory of device meta"):
        DistributedCheckpointLoader(config(layout)).load(into=held)
