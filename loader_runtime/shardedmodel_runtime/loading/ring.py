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

from shardedmodel_runtime.errors import ConfigurationError, excerpt
from shardedmodel_runtime.loading.landings import landing_in

MAX_WINDOWS = 16
"""Most reads in flight onto a device, each of which has a window: 256 MiB of pinned memory at a
block each, 2 GiB on a node of eight ranks, beside which ``AT_ONCE`` second requests have theirs. A
PCIe 5 link (50 GB/s) empties a window in a third of a millisecond, so each waits for reads."""


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

    def adopt(self, held: torch.Tensor) -> torch.Tensor:
        """Use device memory of an earlier load again, after what was queued to read it."""
        ...

    def window(self, size: int) -> torch.Tensor:
        """Make host memory from which copies run by themselves: ``uint8``, one-dimensional."""
        ...

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> Copy:
        """Queue the copy of ``source`` (host) to ``target`` (device), of equal length."""
        ...

    def finish(self) -> None:
        """Return when every copy that was queued has ended."""
        ...


class CudaCopier:
    """Copies on a stream of their own, beside what callers queue on theirs.

    Written by torch's documentation (notes/cuda, CUDA semantics), without a GPU at hand: the ring
    is tested with another copier, of this class only what calls it makes. What it does on a
    simulated device is told in ``docs/design/loading.md``.

    Args:
        device: a CUDA device with its index. Threads begin with device 0 as their current one, so
            each call here names the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _stream_of(device)

    def allocate(self, size: int) -> torch.Tensor:
        """Take memory of the caller's stream, where it will be used and freed.

        Raises:
            ConfigurationError: the device has too little memory left.
        """
        try:
            return self.adopt(torch.empty(size, dtype=torch.uint8, device=self._device))
        except torch.OutOfMemoryError as error:
            raise ConfigurationError(
                f"device: {self._device} has no room for an object of {size} bytes "
                f"({excerpt(str(error))}); use more ranks, or end what else uses the device"
            ) from error

    def adopt(self, held: torch.Tensor) -> torch.Tensor:
        """Let copies wait for what the caller's stream does with the memory, and it for copies.

        What was freed on the caller's stream may still be read by kernels that are queued there.
        And memory that is freed while copies into it run, as when a load fails, is not given to
        others before they have ended.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        held.record_stream(self._stream)
        return held

    def window(self, size: int) -> torch.Tensor:
        """Make pinned memory; without the device's name it might make a context on device 0.

        Raises:
            ConfigurationError: the host gives none.
        """
        try:
            with torch.cuda.device(self._device):
                return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)
        except RuntimeError as error:  # torch's own; OutOfMemoryError is of the device's memory
            raise ConfigurationError(
                f"device: the host gives no {size} bytes of pinned memory for {self._device} "
                f"({excerpt(str(error))}); give the pod more memory, or load with a lower "
                "concurrency"
            ) from error

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> Copy:
        """Queue the copy on the stream.

        Memory that a caller in inference mode took is written in that mode alone, which is each
        thread's own.
        """
        with (
            torch.cuda.device(self._device),
            torch.cuda.stream(self._stream),
            torch.inference_mode(),
        ):
            target.copy_(source, non_blocking=True)
            # Threads that wait for it sleep; by default they would spin, on cores that check bytes.
            ended = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            ended.record(self._stream)
        return _CudaCopy(ended)

    def finish(self) -> None:
        """Wait for the stream, where errors of copies show as well."""
        self._stream.synchronize()


_streams: dict[torch.device, torch.cuda.Stream] = {}
_making = threading.Lock()


def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """Give the stream of all loads' copies to a device.

    It is one for all of them since nobody waits for the copies of a load that has failed: they end
    before those that a later load queues into the same memory, and not after.
    """
    with _making:
        if device not in _streams:
            _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return _streams[device]


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
        self._unmade = windows
        self._free: deque[tuple[torch.Tensor, Copy | None]] = deque()
        self._changed = threading.Condition()

    def take(self) -> torch.Tensor:
        """Take a window whose last copy has ended; waits while all are in use."""
        with self._changed:
            while not self._free and not self._unmade:
                self._changed.wait()
            if self._free:
                window, copy = self._free.popleft()
            else:
                window, copy = None, None
                self._unmade -= 1
        if window is None:
            return self._make()
        if copy is not None:
            self._await(copy, window)
        return window

    def _await(self, copy: Copy, window: torch.Tensor) -> None:
        """Wait for a window's last copy; one that failed leaves the window to the next."""
        try:
            copy.wait()
        except BaseException:
            self.give(window, copy)
            raise

    def _make(self) -> torch.Tensor:
        """Make a window, outside the lock: registering its pages takes milliseconds."""
        try:
            return self.copier.window(self.window_bytes)
        except BaseException:
            with self._changed:
                self._unmade += 1
                self._changed.notify()
            raise

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
        copier = ring.copier
        self.tensor = copier.allocate(size) if held is None else copier.adopt(held)
        self.copy_seconds = 0.0
        self._ring = ring
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
            with landing_in(self.tensor):
                yield filled.numpy().data
                copy = self._ring.copier.copy(filled, self.tensor[start:stop])
        finally:
            self._ring.give(window, copy)
            with self._lock:
                self.copy_seconds += waited

    aside = landing
    """Every read has a window of its own."""

    def make_room(self, memory: memoryview) -> None:
        """Nothing: a window's pages are there."""

    def finish(self) -> None:
        """Wait for the copies that may still run, those of other arenas of the ring too."""
        began = time.perf_counter()
        self._ring.copier.finish()
        self.copy_seconds += time.perf_counter() - began
