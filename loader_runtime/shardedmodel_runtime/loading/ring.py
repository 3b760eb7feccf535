"""A ring of pinned host memory, through which an object's bytes go to a device.

A few windows are registered with the device once and used again and again: a thread takes a free
one, reads a run of blocks into it, checks them there, and queues its copy; the window is free
again when that copy has ended. So host memory never exceeds the ring, device memory never exceeds
the shard, and reading waits for the device when that is the slower of the two.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

MAX_WINDOWS = 16
"""Windows of one ring: 256 MiB at a block each. A PCIe 5 link (50 GB/s) empties one in a third of
a millisecond, so a window is away for little longer than its read."""


class Copy(Protocol):
    """A copy to the device that has been queued."""

    def wait(self) -> None:
        """Return when it has ended."""
        ...


class Copier(Protocol):
    """Moves bytes from host memory to a device."""

    def allocate(self, size: int) -> torch.Tensor:
        """Take device memory: ``uint8``, one-dimensional."""
        ...

    def window(self, size: int) -> torch.Tensor:
        """Make host memory from which copies run by themselves: ``uint8``, one-dimensional."""
        ...

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> Copy:
        """Queue the copy of ``source`` (host) to ``target`` (device), of equal length."""
        ...


class CudaCopier:
    """Copies on a stream of their own.

    Written without a GPU at hand: the ring is tested with another copier, this class is not.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def allocate(self, size: int) -> torch.Tensor:
        """Take memory that no earlier work of another stream still uses."""
        with torch.cuda.stream(self._stream):
            return torch.empty(size, dtype=torch.uint8, device=self._device)

    def window(self, size: int) -> torch.Tensor:
        """Make pinned memory."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> Copy:
        """Queue the copy on the stream."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            ended = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ended.record(self._stream)
        return _CudaCopy(ended)


class _CudaCopy:
    def __init__(self, ended: torch.cuda.Event) -> None:
        self._ended = ended

    def wait(self) -> None:
        self._ended.synchronize()


class Ring:
    """Windows of host memory, each free or in use; made when they are first needed.

    Args:
        windows: how many.
        window_bytes: size of each.
        copier: makes them, and empties them.
    """

    def __init__(self, windows: int, window_bytes: int, copier: Copier) -> None:
        self.copier = copier
        self.window_bytes = window_bytes
        self.windows = windows
        self._unmade = windows
        self._free: deque[tuple[torch.Tensor, Copy | None]] = deque()
        self._changed = threading.Condition()

    def take(self) -> torch.Tensor:
        """Take a window whose last copy has ended; waits while all are in use."""
        with self._changed:
            while not self._free and not self._unmade:
                self._changed.wait()
            if not self._free:
                self._unmade -= 1
                return self.copier.window(self.window_bytes)
            window, copy = self._free.popleft()
        if copy is not None:
            copy.wait()
        return window

    def give(self, window: torch.Tensor, copy: Copy | None) -> None:
        """Give a window back, with the copy out of it that may still run."""
        with self._changed:
            self._free.append((window, copy))
            self._changed.notify()


class DeviceArena:
    """An object in a device's memory, filled through a ring.

    Args:
        size: bytes of the object.
        held: the device's memory of an earlier load that is used again; None: new memory.
        ring: through which its bytes come.
    """

    def __init__(self, size: int, held: torch.Tensor | None = None, *, ring: Ring) -> None:
        self.tensor = ring.copier.allocate(size) if held is None else held
        self.copy_seconds = 0.0
        self._ring = ring
        self._copies: deque[Copy] = deque(maxlen=ring.windows)
        self._lock = threading.Lock()

    @contextmanager
    def landing(self, start: int, stop: int) -> Iterator[memoryview]:
        """Give a window, and queue its copy to the device afterwards."""
        began = time.perf_counter()
        window = self._ring.take()
        waited = time.perf_counter() - began
        copy: Copy | None = None
        try:
            filled = window[: stop - start]
            yield filled.numpy().data
            copy = self._ring.copier.copy(filled, self.tensor[start:stop])
        finally:
            self._ring.give(window, copy)
            with self._lock:
                self.copy_seconds += waited
                if copy is not None:
                    self._copies.append(copy)

    aside = landing
    """Every read has a window of its own."""

    def finish(self) -> None:
        """Wait for the copies that may still run: those of the latest windows."""
        began = time.perf_counter()
        for copy in self._copies:
            copy.wait()
        self.copy_seconds += time.perf_counter() - began
