"""Doing things in several lanes at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TypeVar

from tests.crashmatrix.lane import Lane
from tests.crashmatrix.store import LaneStore, lane_store
from tests.crashmatrix.world import World

Task = TypeVar("Task")
Result = TypeVar("Result")


class Lanes:
    """S3 servers for as many lives as go on at a time; each life has a namespace of its own."""

    def __init__(
        self, world: World, stores: Sequence[LaneStore], minutes: float, say: Callable[[str], None]
    ) -> None:
        """Go on with a life in each of ``stores`` at a time.

        Of what is done at once, nothing is begun after ``minutes``. What breaks off is told by
        ``say`` when it does: the results come hours later.
        """
        self._world = world
        self._say = say
        self._stores = stores
        self._seconds = minutes * 60
        self._numbers = count()

    def each(
        self, tasks: Sequence[Task], do: Callable[[Lane, Task], Result], *, alone: bool = False
    ) -> list[Result | Exception]:
        """Do the tasks, each in a lane of its own; gives the results, or what they raised.

        With ``alone`` one goes on after the other. What is not begun in time is not done. A task
        that fails takes no other along: an hour's results are not to be lost to one.
        """
        deadline = time.monotonic() + self._seconds
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(tasks)):
            waiting.put(number)
        results: dict[int, Result | Exception] = {}

        def work(store: LaneStore) -> None:
            while time.monotonic() < deadline:
                try:
                    number = waiting.get_nowait()
                except queue.Empty:
                    return
                results[number] = self._one(store, tasks[number], do)

        threads = [
            threading.Thread(target=work, args=(store,), daemon=True)
            for store in self._stores[: 1 if alone else None]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[number] for number in sorted(results)]

    def _one(
        self, store: LaneStore, task: Task, do: Callable[[Lane, Task], Result]
    ) -> Result | Exception:
        try:
            store.empty()
            with self._world.lane(f"life-{next(self._numbers)}", store) as lane:
                return do(lane, task)
        except Exception as error:  # noqa: BLE001 - told in the results
            self._say(f"{task}: broken off: {error!r}")
            return error


@contextmanager
def lanes(world: World, count: int, minutes: float, say: Callable[[str], None]) -> Iterator[Lanes]:
    """Start the S3 servers."""
    with ExitStack() as stack:
        stores = []
        for number in range(count):
            folder = world.logs / f"s3-{number}"
            store = lane_store(world.loop, world.cluster.host_address, folder)
            stores.append(stack.enter_context(store))
        yield Lanes(world, stores, minutes, say)
