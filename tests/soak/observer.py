"""Watching a soak: the layouts that models have, the operators' memory, a line now and then."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.devcluster.api import ApiError
from tests.soak.faults import Faults
from tests.soak.layouts import History
from tests.soak.memory import MIB, Life, resident_bytes
from tests.soak.state import MODEL_PATH

LOOK_SECONDS = 1.0
"""A model whose layout is to be deleted with it goes through a Job, which takes longer."""
SAMPLE_LOOKS = 5
"""Looks from one sample of memory to the next."""
LINE_LOOKS = 30
"""Looks from one line of progress to the next."""


class Observer:
    """Looks at a cluster from a thread of its own."""

    def __init__(self, faults: Faults, say: Callable[[str], None]) -> None:
        self._faults = faults
        self._say = say
        self._began = time.monotonic()
        self._done = threading.Event()
        self.history = History()
        self.lives: dict[tuple[str, int], Life] = {}
        """Operator processes by pod and pid."""
        self.missed = 0
        """Looks that the API server did not answer."""

    @property
    def seconds(self) -> float:
        """Since the soak began."""
        return time.monotonic() - self._began

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look while the body runs."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _run(self) -> None:
        looks = 0
        while not self._done.wait(LOOK_SECONDS):
            try:
                phases = self._look()
                if looks % SAMPLE_LOOKS == 0:
                    for life, size in self._sizes():
                        life.samples.append((round(self.seconds, 1), size))
            except ApiError:
                self.missed += 1
                continue
            if looks % LINE_LOOKS == 0:
                self._say(self._line(phases))
            looks += 1

    def _look(self) -> Counter[str]:
        models = self._faults.cluster.api.get(MODEL_PATH)["items"]
        self.history.look(models)
        return Counter((model.get("status") or {}).get("phase", "New") for model in models)

    def handled(self, count: int) -> None:
        """Note what each operator holds after so many changes of the stream."""
        for life, size in self._sizes():
            life.handled.append((count, size))

    def _sizes(self) -> Iterator[tuple[Life, int]]:
        for pod in self._faults.operators():
            name = pod["metadata"]["name"]
            for pid in self._faults.cluster.pod_processes(pod["metadata"]["uid"]):
                if size := resident_bytes(pid):
                    yield self.lives.setdefault((name, pid), Life(name, pid)), size

    def _line(self, phases: Counter[str]) -> str:
        told = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))
        now = [life.samples[-1] for life in self.lives.values()]
        sizes = ", ".join(f"{size / MIB:.0f}" for at, size in now if self.seconds - at < 30)
        return f"models: {told or 'none'}; operators: {sizes or '-'} MiB"
