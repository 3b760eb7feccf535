"""Who counts the operator's calls and ends it at one of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.crashmatrix.calls import Call
from tests.crashmatrix.proxy import Cut

When = Literal["before", "after"]
"""Before: the server never hears of the call, which is the state after the call before it and its
answer. After: the server has done it, and the answer is lost."""
CREATED = 201


@dataclass
class Executioner:
    """Stands between the operator and the API server.

    Args:
        kill: ends the operator's process by SIGKILL and waits until it has gone.
    """

    kill: Callable[[], None]
    trace: list[Call] = field(default_factory=list)
    """Calls that counted, in order, since ``watch_for``."""
    made: list[str] = field(default_factory=list)
    """Paths of objects that were made."""
    _at: int | None = None
    _when: When = "before"
    _counting: bool = False
    _died: threading.Event = field(default_factory=threading.Event)

    @property
    def died(self) -> bool:
        """Whether the operator has been ended."""
        return self._died.is_set()

    def watch_for(self, at: int | None, when: When = "before") -> None:
        """Count anew; end the operator at the call of this number, from 0; None: at none."""
        self.trace, self.made = [], []
        self._at, self._when = at, when
        self._died.clear()
        self._counting = True

    async def ask(self, call: Call) -> None:
        """Count a call."""
        if not call.counts or not self._counting:
            return
        self.trace.append(call)
        await self._strike(len(self.trace) - 1, "before")

    async def answer(self, call: Call, status: int) -> None:
        """Note what it made."""
        if call.counts and status == CREATED:
            self.made.append(f"{call.method} {call.path}")
        if call.counts and self._counting:
            # One model, one flight: the call that is answered is the last that was counted.
            await self._strike(len(self.trace) - 1, "after")

    async def _strike(self, number: int, when: When) -> None:
        if self.died or number != self._at or when != self._when:
            return
        # In one piece: with the operator its connection goes, and with that who waits here.
        await asyncio.to_thread(self._end)
        raise Cut

    def _end(self) -> None:
        self.kill()
        self._died.set()
