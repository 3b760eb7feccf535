"""A stream of changes to models at rest, each answered by the operator before the next.

It is what memory is judged by: the changes are counted, and they leave no more objects than there
were. Every other one is a whole life of a model, with a name and a uid that nobody has seen before,
so that what is kept by either shows; its spec is refused, and nothing is made for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from tests.devcluster.api import Api, ApiError
from tests.soak.choices import Choice, manifest
from tests.soak.state import MODEL_PATH

CHANGES = 600
SECONDS = 240.0
"""The longest that the stream takes: on a slow machine there are fewer changes."""
SAMPLE_CHANGES = 20
ANSWER_SECONDS = 30.0
"""The longest wait for the operator's answer to one change."""
POLL_SECONDS = 0.05
DEADLINE = "/spec/rollout/progressDeadlineSeconds"
"""A field whose change reaches the status and makes no object."""


class Stream:
    """Changes the models of one namespace."""

    def __init__(self, api: Api, models: Sequence[str]) -> None:
        """Change ``models``, by name, in turn."""
        self._api = api
        self._models = cycle(models)

    def run(self, sample: Callable[[int], None]) -> int:
        """Make the changes; returns their number.

        Args:
            sample: told of the number so far, now and then.

        Raises:
            ApiError: the server refused a change, or the operator did not answer one.
        """
        ends = time.monotonic() + SECONDS
        for count in range(CHANGES):
            if count % SAMPLE_CHANGES == 0:
                sample(count)
            if time.monotonic() > ends:
                return count
            if count % 2:
                self._live(f"stream-{count}")
            else:
                self._touch(next(self._models), count)
        sample(CHANGES)
        return CHANGES

    def _touch(self, name: str, count: int) -> None:
        path = f"{MODEL_PATH}/{name}"
        # Above what any wait here takes, and another number each time.
        self._api.json_patch(path, [{"op": "add", "path": DEADLINE, "value": 3600 + count}])
        self._wait(path)

    def _live(self, name: str) -> None:
        self._api.create(MODEL_PATH, refused(name))
        self._wait(f"{MODEL_PATH}/{name}")
        self._api.delete(f"{MODEL_PATH}/{name}")

    def _wait(self, path: str) -> None:
        ends = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < ends:
            model = self._api.get(path)
            observed = (model.get("status") or {}).get("observedGeneration")
            if observed == model["metadata"]["generation"]:
                return
            time.sleep(POLL_SECONDS)
        raise ApiError(f"{path}: the operator did not answer within {ANSWER_SECONDS:.0f} s")


def refused(name: str) -> dict[str, Any]:
    """A model that the API server takes and the operator refuses."""
    made = manifest(name, Choice())
    # A volume has a name; the schema leaves templates to the operator.
    made["spec"]["workers"]["template"]["spec"]["volumes"] = [{}]
    return made
