"""Takes what objects hold, tensor by tensor, for those that are written at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from shardedmodel_runtime.errors import LayoutError
from shardedmodel_runtime.layout.objects import PlannedObject
from shardedmodel_runtime.layout.writer import StreamingWriter


class ObjectSink:
    """The objects of one pass: takes each object's tensors in the order of its plan.

    Args:
        objects: what is written in this pass.
        open_writer: begins an object; called when its first bytes come.
    """

    def __init__(
        self,
        objects: Sequence[PlannedObject],
        open_writer: Callable[[PlannedObject], StreamingWriter],
    ) -> None:
        self._open_writer = open_writer
        self._writers: dict[str, StreamingWriter] = {}
        self._holders: dict[str, list[PlannedObject]] = {}
        for planned in objects:
            for name in planned.names:
                self._holders.setdefault(name, []).append(planned)

    def write(self, rank: int, tensor: str, data: memoryview) -> None:
        """Append bytes to a tensor's piece; a replicated one is written for any one rank.

        Args:
            rank: a rank that holds the piece.
            tensor: its name; tensors come in the order of the object's plan.
            data: the next bytes of the piece, C-contiguous.

        Raises:
            LayoutError: the piece is in none of the pass's objects.
            StorageError: an earlier part could not be stored.
            Terminated: the process was asked to end.
        """
        for planned in self._holders.get(tensor, ()):
            if rank in planned.ranks:
                self.writer(planned).write(data)
                return
        raise LayoutError(f"tensor {tensor!r} of rank {rank} is in no open object")

    def writer(self, planned: PlannedObject) -> StreamingWriter:
        """Give an object's writer, begun with its header."""
        if planned.key not in self._writers:
            writer = self._writers[planned.key] = self._open_writer(planned)
            writer.write(memoryview(planned.header))
        return self._writers[planned.key]

    def abort(self) -> None:
        """Drop what is not published yet."""
        for writer in self._writers.values():
            writer.abort()

    def abandon(self, seconds: float) -> int:
        """Drop it side by side, within a time, and whatever is under way.

        Returns:
            How many objects the store has not dropped by then.
        """
        deadline = time.monotonic() + seconds
        threads = [
            threading.Thread(target=writer.abort, name="abandon", daemon=True)
            for writer in list(self._writers.values())
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in threads)
