"""Final storage: one allocation per object, in which the tensors are views.

A block lands where it stays. On the CPU a thread reads straight into the tensor's memory, or the
tensor is the file's own pages; for a CUDA device it reads into a window of pinned memory
(``ring.py``), from which the block is copied while others are read.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Protocol

import torch

from shardedmodel_runtime.errors import ConfigurationError, excerpt
from shardedmodel_runtime.loading.config import Device
from shardedmodel_runtime.loading.landings import landing_in
from shardedmodel_runtime.loading.ring import CudaCopier, DeviceArena, Ring
from shardedmodel_runtime.memory import Access, populate


class Arena(Protocol):
    """One object's bytes on the rank's device."""

    @property
    def tensor(self) -> torch.Tensor:
        """The object whole, header included: one-dimensional ``uint8``."""
        ...

    @property
    def copy_seconds(self) -> float:
        """Spent waiting for copies to the device, over all threads."""
        ...

    def landing(self, start: int, stop: int) -> AbstractContextManager[memoryview]:
        """Give writable memory for bytes ``[start, stop)``.

        When the context ends without an error the bytes are on their way to ``tensor``; when it
        ends with one they do not count.
        """
        ...

    def aside(self, start: int, stop: int) -> AbstractContextManager[memoryview]:
        """Give memory as ``landing`` does, which no other read of the same bytes touches."""
        ...

    def make_room(self, memory: memoryview) -> None:
        """Make ready a part of what ``landing`` gave, just before bytes come into it."""
        ...

    def finish(self) -> None:
        """Wait until every byte that landed is in ``tensor``."""
        ...


class HostArena:
    """An object in host memory: bytes land in the tensor itself.

    Args:
        size: bytes of the object.
        held: memory of an earlier load that is used again; None: new memory.
    """

    def __init__(self, size: int, held: torch.Tensor | None = None) -> None:
        self.tensor = _new_memory(size) if held is None else held
        self.copy_seconds = 0.0
        self._is_new = held is None
        self._memory = self.tensor.numpy().data

    @contextmanager
    def landing(self, start: int, stop: int) -> Iterator[memoryview]:
        """Give the tensor's own memory."""
        with landing_in(self.tensor):
            yield self._memory[start:stop]

    @contextmanager
    def aside(self, start: int, stop: int) -> Iterator[memoryview]:
        """Give other memory, which is copied into the tensor's at the end."""
        memory = memoryview(bytearray(stop - start))
        with landing_in(self.tensor):
            yield memory
            self._memory[start:stop] = memory

    def make_room(self, memory: memoryview) -> None:
        """Make the pages of new memory, in one call."""
        if self._is_new:
            with suppress(OSError):  # they come when the bytes do, or the reason shows then
                populate(memory, Access.WRITE)

    def finish(self) -> None:
        """Nothing: the bytes are there."""


def _new_memory(size: int) -> torch.Tensor:
    try:
        # Named, since whoever loads may have told torch to make tensors elsewhere by default.
        return torch.empty(size, dtype=torch.uint8, device="cpu")
    except RuntimeError as error:
        raise ConfigurationError(
            f"device: the host gives no {size} bytes for an object ({excerpt(str(error))}); "
            "give the pod more memory, or cut the checkpoint for more ranks"
        ) from error


class MappedArena:
    """An object whose file is mapped: bytes are where they belong once they were brought.

    Args:
        mapping: the file's bytes, writable.
    """

    def __init__(self, mapping: mmap.mmap) -> None:
        self.tensor = torch.frombuffer(mapping, dtype=torch.uint8)
        self.copy_seconds = 0.0
        self._memory = memoryview(mapping)

    @contextmanager
    def landing(self, start: int, stop: int) -> Iterator[memoryview]:
        """Give the file's own pages."""
        yield self._memory[start:stop]

    aside = landing
    """Two reads of the same bytes bring the same pages."""

    def make_room(self, memory: memoryview) -> None:
        """Nothing: the store brings the pages."""

    def finish(self) -> None:
        """Nothing: the bytes are there."""


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


def callers_stream(device: torch.device) -> AbstractContextManager[object]:
    """Give what makes the caller's current stream that of the thread which enters it.

    A device's memory belongs to the stream that it is taken on, and a thread begins with the
    default stream of device 0.
    """
    if device.type == "cpu":
        return nullcontext()
    return _working_on(device, torch.cuda.current_stream(device))


@contextmanager
def _working_on(device: torch.device, stream: torch.cuda.Stream) -> Iterator[None]:
    """Make a device and a stream of it the current ones.

    The device comes first: torch leaves a stream of another device by setting the former device,
    which makes a context there, and it leaves a device without.
    """
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield


MakeArena = Callable[[int, torch.Tensor | None], Arena]
"""Makes an arena of a number of bytes, in memory of an earlier load where some is given."""


def arena_maker(device: torch.device, window_bytes: int, windows: int) -> MakeArena:
    """Give what makes arenas on ``device``.

    Args:
        device: where tensors go.
        window_bytes: the longest run of bytes that lands at once.
        windows: reads that may land at once.

    Returns:
        What makes them. All of them share one ring, so that pinned memory does not grow with
        their number.
    """
    if device.type == "cpu":
        return HostArena
    return partial(DeviceArena, ring=Ring(windows, window_bytes, CudaCopier(device)))
