"""The disk of the node's cache: one that hangs is waited for no longer than the store can wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from shardedmodel_runtime.loading.config import seconds_until
from shardedmodel_runtime.storage.waiting import within

T = TypeVar("T")


class _Late(Exception):
    """The disk has not answered."""


class Disk:
    """Asked in threads that are left to themselves where it hangs, and nothing more after that.

    Args:
        deadline: ``time.monotonic()`` by which the load has to end; None: never. Half of what it
            leaves is waited for an answer.
        hung: called when one has not come.
    """

    def __init__(self, deadline: float | None, hung: Callable[[], None]) -> None:
        self.deadline = deadline
        self.hangs = False
        self._hung = hung

    def answer(self, ask: Callable[[], T], otherwise: T) -> T:
        """Give what the disk answers; ``otherwise`` where it has hung, or does so now."""
        if self.hangs:
            return otherwise
        try:
            return within(self._patience(), ask, _Late)
        except _Late:
            self.give_up()
            return otherwise

    def end(self, work: Callable[[], None]) -> None:
        """Do what has to be done last, whether or not the disk hangs."""
        try:
            within(0.0 if self.hangs else self._patience(), work, _Late)
        except _Late:
            self.give_up()

    def give_up(self) -> None:
        """Ask for nothing any more."""
        self.hangs = True
        self._hung()

    def _patience(self) -> float | None:
        left = seconds_until(self.deadline)
        return None if left is None else left / 2
