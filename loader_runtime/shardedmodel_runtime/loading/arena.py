"""Final storage: one allocation per object, in which the tensors are views.

A block lands where it stays. On the CPU a thread reads straight into the tensor's memory; for a
CUDA device it reads into pinned memory, from which the block is copied while others are read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

import torch

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.loading.config import Device


class Arena(Protocol):
    """One object's bytes on the rank's device."""

    tensor: torch.Tensor
    """The object whole, header included: one-dimensional ``uint8``."""

    copy_seconds: float
    """Spent waiting for copies to the device, over all threads."""

    def landing(self, start: int, stop: int) -> AbstractContextManager[memoryview]:
        """Give writable memory for bytes ``[start, stop)``.

        When the context ends without an error the bytes are on their way to ``tensor``; when it
        ends with one they do not count.
        """
        ...

    def finish(self) -> None:
        """Wait until every byte that landed is in ``tensor``."""
        ...


class HostArena:
    """An object in host memory: bytes land in the tensor itself."""

    def __init__(self, size: int) -> None:
        self.tensor = torch.empty(size, dtype=torch.uint8)
        self.copy_seconds = 0.0
        self._memory = self.tensor.numpy().data

    @contextmanager
    def landing(self, start: int, stop: int) -> Iterator[memoryview]:
        """Give the tensor's own memory."""
        yield self._memory[start:stop]

    def finish(self) -> None:
        """Nothing: the bytes are there."""


class Staging:
    """Pinned host memory, two buffers for each reading thread: one fills while one is copied."""

    def __init__(self, buffer_bytes: int) -> None:
        self._bytes = buffer_bytes
        self._threads = threading.local()

    def take(self) -> tuple[torch.Tensor, torch.cuda.Event]:
        """Give this thread's next buffer and the event that ends its former copy."""
        ring = getattr(self._threads, "ring", None)
        if ring is None:
            ring = [
                (torch.empty(self._bytes, dtype=torch.uint8, pin_memory=True), torch.cuda.Event())  # type: ignore[no-untyped-call]
                for _ in range(2)
            ]
            self._threads.ring = ring
        ring.reverse()
        buffer, copied = ring[0]
        copied.synchronize()
        return buffer, copied


class DeviceArena:
    """An object in a CUDA device's memory, filled by asynchronous copies from pinned memory.

    Written without a GPU at hand: no test of this project has run it yet.
    """

    def __init__(self, size: int, device: torch.device, staging: Staging) -> None:
        self.tensor = torch.empty(size, dtype=torch.uint8, device=device)
        self.copy_seconds = 0.0
        self._device = device
        self._staging = staging
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()

    @contextmanager
    def landing(self, start: int, stop: int) -> Iterator[memoryview]:
        """Give pinned memory, and queue its copy to the device afterwards."""
        began = time.perf_counter()
        buffer, copied = self._staging.take()
        waited = time.perf_counter() - began
        filled = buffer[: stop - start]
        yield filled.numpy().data
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self.tensor[start:stop].copy_(filled, non_blocking=True)
            copied.record(self._stream)
        with self._lock:
            self.copy_seconds += waited

    def finish(self) -> None:
        """Wait for the stream of copies."""
        began = time.perf_counter()
        self._stream.synchronize()
        self.copy_seconds += time.perf_counter() - began


def choose_device(wanted: Device, local_rank: int) -> torch.device:
    """Decide where tensors go.

    Raises:
        ConfigurationError: CUDA is wanted but not there, or has no device for this local rank.
    """
    count = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and count == 0):
        return torch.device("cpu")
    if local_rank >= count:
        raise ConfigurationError(
            f"device: {wanted!r} needs CUDA device {local_rank} for local rank {local_rank}, and "
            f"torch finds {count}; give the pod a GPU for each local rank or use device cpu"
        )
    return torch.device("cuda", local_rank)


def arena_maker(device: torch.device, staging_bytes: int) -> Callable[[int], Arena]:
    """Give what makes an arena of a number of bytes on ``device``.

    All its arenas share one staging, so that pinned memory does not grow with their number.
    """
    if device.type == "cpu":
        return HostArena
    return partial(DeviceArena, device=device, staging=Staging(staging_bytes))
