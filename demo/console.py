"""How the demo talks: numbered steps with their seconds, and a clock on long ones."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

TICK_SECONDS = 15
"""A step that says nothing for so long says that it still runs: a person waits, not wonders."""


class DemoError(Exception):
    """A step failed; the message says what, where and what to look at."""


class Console:
    """Prints the numbered steps of one run and remembers how long each took."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._current = 0
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Print one indented line of detail."""
        print(f"      {text}", flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step, tick while it runs, and print how long it took."""
        self._current += 1
        print(f"[{self._current}/{self._steps}] {title}", flush=True)
        began = time.monotonic()
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(began, done), daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()
        self.seconds[title] = time.monotonic() - began
        self.say(f"done in {self.seconds[title]:.1f} s")

    def _tick(self, began: float, done: threading.Event) -> None:
        while not done.wait(TICK_SECONDS):
            self.say(f"… still running, {time.monotonic() - began:.0f} s")


def fail(message: str) -> int:
    """Print the closing line of a failed run; returns its exit code."""
    print(f"\ndemo failed: {message}", file=sys.stderr, flush=True)
    return 1
