"""What the models' statuses say, for the metrics: phases, how long they last, what is stalled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from shardedmodel_operator.cluster.cache import Key
from shardedmodel_operator.cluster.resources import Object
from shardedmodel_operator.reconciling.exposition import Histogram

UNSEEN = "Pending"
"""Phase of a model whose status was not written yet."""

PHASE_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
"""Seconds: MiniLM is cut in one, half a terabyte in hours."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model as its status tells it."""

    uid: str
    phase: str
    since: float | None
    """When it came into the phase; None when it was in it already at first sight."""
    stalled: str
    """Reason of ``Stalled``; empty when it is not."""
    missing: int
    """Ranks of its groups that are not ready."""


class Phases:
    """Follows the phases of all models; read from the server's threads."""

    def __init__(self, clock: Callable[[], float], leads: Callable[[], bool]) -> None:
        """Follow on ``clock``; durations count only while this operator ``leads``."""
        self._clock = clock
        self._leads = leads
        self._models: dict[Key, ModelState] = {}
        self.seconds = Histogram(PHASE_BUCKETS)
        """How long models were in each phase that they left."""

    def see(self, body: Object) -> None:
        """Take in a model's status."""
        metadata, status = body["metadata"], body.get("status") or {}
        key, now = Key(metadata["namespace"], metadata["name"]), self._clock()
        phase, before = status.get("phase") or UNSEEN, self._models.get(key)
        since: float | None = None
        if before is None or before.uid != metadata["uid"]:
            # A model without a status was made just now: nobody has looked at it.
            since = now if not status.get("phase") else None
        elif before.phase == phase:
            since = before.since
        else:
            since = now
            if before.since is not None and self._leads():
                self.seconds.observe(now - before.since, before.phase)
        self._models[key] = ModelState(
            uid=metadata["uid"],
            phase=phase,
            since=since,
            stalled=_stalled(status),
            missing=sum(
                group.get("ranks", 0) - group.get("readyRanks", 0)
                for group in status.get("groups") or []
            ),
        )

    def keep(self, keys: Collection[Key]) -> None:
        """Forget all models but these."""
        for key in self._models.keys() - set(keys):
            del self._models[key]

    def states(self) -> dict[Key, ModelState]:
        """Each model's state, while this operator leads: another's are told by that one."""
        return dict(self._models) if self._leads() else {}


def _stalled(status: Any) -> str:
    found = (c for c in status.get("conditions") or [] if c.get("type") == "Stalled")
    return next((str(c.get("reason")) for c in found if c.get("status") == "True"), "")
