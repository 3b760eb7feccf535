"""The ring with a device of the test's own: copies run when the test says so."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import pytest
import torch

from shardedmodel_runtime.loading.ring import Copy, DeviceArena, Ring


class FakeCopy:
    """A copy that runs when somebody waits for it."""

    def __init__(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self._source = source
        self._target = target
        self._lock = threading.Lock()
        self.has_run = False

    def wait(self) -> None:
        with self._lock:
            if not self.has_run:
                self._target.copy_(self._source)
                self.has_run = True


class FakeCopier:
    """A device in host memory, whose copies are as late as they may be."""

    def __init__(self) -> None:
        self.windows = 0
        self.copies: list[FakeCopy] = []
        self.adopted: list[torch.Tensor] = []
        self.fails = False

    def allocate(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)

    def adopt(self, held: torch.Tensor) -> torch.Tensor:
        self.adopted.append(held)
        return held

    def finish(self) -> None:
        for copy in self.copies:
            copy.wait()

    def window(self, size: int) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("no pinned memory")
        self.windows += 1
        return torch.zeros(size, dtype=torch.uint8)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> FakeCopy:
        copy = FakeCopy(source, target)
        self.copies.append(copy)
        return copy


def fill(arena: DeviceArena, start: int, data: bytes) -> None:
    with arena.landing(start, start + len(data)) as memory:
        memory[:] = data


def test_what_lands_in_windows_reaches_the_device() -> None:
    arena = DeviceArena(10, ring=Ring(2, 4, FakeCopier()))
    for start, data in ((0, b"abcd"), (4, b"efgh"), (8, b"ij")):
        fill(arena, start, data)
    arena.finish()
    assert bytes(arena.tensor.tolist()) == b"abcdefghij"


def test_a_window_is_used_again_only_after_its_copy() -> None:
    copier = FakeCopier()
    arena = DeviceArena(8, ring=Ring(1, 4, copier))
    fill(arena, 0, b"abcd")
    assert not copier.copies[0].has_run
    with arena.landing(4, 8):
        assert copier.copies[0].has_run


def test_windows_are_made_once_and_shared_by_arenas() -> None:
    copier = FakeCopier()
    ring = Ring(2, 4, copier)
    for _ in range(5):
        arena = DeviceArena(8, ring=ring)
        fill(arena, 0, b"abcd")
        fill(arena, 4, b"efgh")
        arena.finish()
    assert copier.windows <= 2


def test_a_read_waits_while_all_windows_are_in_use() -> None:
    arena = DeviceArena(8, ring=Ring(1, 4, FakeCopier()))
    second = threading.Thread(target=fill, args=(arena, 4, b"efgh"))
    with arena.landing(0, 4) as memory:
        second.start()
        second.join(0.05)
        assert second.is_alive()
        memory[:] = b"abcd"
    second.join()
    arena.finish()
    assert bytes(arena.tensor.tolist()) == b"abcdefgh"


def test_what_failed_on_its_way_is_not_copied_and_gives_its_window_back() -> None:
    copier = FakeCopier()
    arena = DeviceArena(4, ring=Ring(1, 4, copier))
    with pytest.raises(ValueError, match="bad block"), arena.landing(0, 4):
        raise ValueError("bad block")
    fill(arena, 0, b"abcd")
    assert len(copier.copies) == 1


def test_a_copy_that_failed_fails_every_read_that_needs_its_window() -> None:
    ring = Ring(1, 4, FakeCopier())
    copy = Mock(Copy)
    copy.wait.side_effect = RuntimeError("CUDA error")
    ring.give(ring.take(), copy)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="CUDA error"):
            ring.take()


def test_two_reads_of_the_same_bytes_have_windows_of_their_own() -> None:
    arena = DeviceArena(4, ring=Ring(2, 4, FakeCopier()))
    with arena.landing(0, 4) as first, arena.aside(0, 4) as second:
        first[:], second[:] = b"abcd", b"efgh"
        assert bytes(first) == b"abcd"


def test_memory_of_an_earlier_load_is_adopted_before_copies_into_it() -> None:
    copier, held = FakeCopier(), torch.zeros(4, dtype=torch.uint8)
    arena = DeviceArena(4, held, ring=Ring(1, 4, copier))
    assert arena.tensor is held
    assert copier.adopted == [held]


def test_a_window_that_could_not_be_made_is_made_for_the_next_read() -> None:
    copier = FakeCopier()
    ring = Ring(1, 4, copier)
    copier.fails = True
    with pytest.raises(RuntimeError, match="no pinned memory"):
        ring.take()
    copier.fails = False
    assert ring.take().numel() == 4
