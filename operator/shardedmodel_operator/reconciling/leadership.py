"""Which of several operators acts: the one that holds the Lease, and only while it is sure to.

The rule is client-go's. Whoever waits takes a Lease only after it has not changed for its whole
duration, counted on the waiting process's own clock from when it saw the last change; the holder
stops acting ``RENEW_DEADLINE_SECONDS`` after it sent its last successful renewal, on its own clock.
The first is longer than the second, so clocks of two machines are never compared, only trusted to
run about as fast: the times written into the Lease are for people. Two who take at once are told
apart by the Lease's ``resourceVersion``: one of the two writes is a conflict.

While it lasts, a tenure guards every single call that writes. What it cannot guard against is a
call that the server accepts and lets lie for longer than the difference of the two times; such a
late write is one that the next reconciliation finds and sets right, since all that is written is
either applied whole, or tied to a uid.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.resources import LEASES, Object
from shardedmodel_operator.errors import ClusterError, NotLeading, ObjectConflict

logger = logging.getLogger(__name__)

LEASE_SECONDS = 11
"""How long the others leave an unchanged Lease alone. With ``POLL_SECONDS`` before and after, the
one that waits acts 13 s after the holder's last renewal: below 15 s with room for slow answers."""
RENEW_DEADLINE_SECONDS = 8.0
"""How long the holder acts after its last renewal; three seconds less than the others wait, which
is for calls that are under way and for clocks that run unevenly."""
RENEW_SECONDS = 2.0
"""Time between renewals: three may fail before the holder stops acting."""
POLL_SECONDS = 1.0
"""Time between two looks at a Lease that is another's, and between attempts that failed."""
ANSWER_SECONDS = 2.5
"""Time for one answer about the Lease: two attempts fit into the deadline."""
FINISH_SECONDS = 5.0
"""What an operator that ends gives its last calls before it hands the Lease on; longer ones find
the Lease running out by itself, which is safe."""
FINISH_POLL_SECONDS = 0.02
"""Between two looks whether the last calls have ended: short beside a call."""

Action = Literal["create", "take", "renew", "wait"]


@dataclass(frozen=True, slots=True)
class LeaseName:
    """Where the Lease is."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """A Lease as it was seen, and since when it has not changed."""

    holder: str
    seconds: float
    version: str
    since: float
    """On the clock of the process that saw it."""

    @classmethod
    def of(cls, body: Object, before: Sighting | None, now: float) -> Sighting:
        """Read a Lease; ``since`` stays that of ``before`` when it is the same version."""
        spec, version = body.get("spec") or {}, body["metadata"]["resourceVersion"]
        unchanged = before is not None and before.version == version
        return cls(
            holder=spec.get("holderIdentity") or "",
            seconds=spec.get("leaseDurationSeconds") or LEASE_SECONDS,
            version=version,
            since=before.since if before is not None and unchanged else now,
        )


def decide(seen: Sighting | None, identity: str, now: float) -> Action:
    """What to do about a Lease that was just looked at.

    Args:
        seen: the Lease; None when there is none.
        identity: who asks; no two processes have the same.
        now: the asking process's clock.
    """
    if seen is None:
        return "create"
    if seen.holder == identity:
        return "renew"
    if not seen.holder or now - seen.since >= seen.seconds:
        return "take"
    return "wait"


class Tenure:
    """Whether this process may act, and until when; for all of its threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """A tenure that has not begun, on a monotonic ``clock`` in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._until = -math.inf
        self._acting = 0
        self._closed = False
        self.number = 0
        """How often it began: what was left to others in between must be looked at anew."""

    def extend(self, until: float) -> None:
        """Let it last until a time; it begins when it did not last already."""
        with self._lock:
            if self._closed:
                return
            self.number += self._until <= self._clock()
            self._until = until

    def end(self) -> None:
        """End it; it may begin again."""
        with self._lock:
            self._until = -math.inf

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self._closed, self._until = True, -math.inf

    def lasts(self) -> bool:
        """Whether this process may act now."""
        return self._clock() < self._until

    @contextmanager
    def act(self) -> Iterator[None]:
        """Surround one deed.

        Raises:
            NotLeading: the tenure does not last; nothing may be done.
        """
        with self._lock:
            if not self.lasts():
                raise NotLeading("this operator does not lead; another one may act")
            self._acting += 1
        try:
            yield
        finally:
            with self._lock:
                self._acting -= 1

    def rests(self) -> bool:
        """Whether no deed is under way."""
        return self._acting == 0


class Election:
    """Keeps the Lease, or waits for it."""

    def __init__(
        self,
        cluster: Cluster,
        lease: LeaseName,
        identity: str,
        tenure: Tenure,
        clock: Callable[[], float],
    ) -> None:
        """Stand for ``lease`` as ``identity``, which is no other process's."""
        self._cluster = cluster.with_patience(ANSWER_SECONDS)
        self._lease = lease
        self._identity = identity
        self._tenure = tenure
        self._clock = clock
        self._seen: Sighting | None = None
        self._complaint = ""
        # A thread of its own: the others may all hang on a server that does not answer.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease")

    async def run(self, began: Callable[[], Awaitable[None]]) -> None:
        """Stand for ever; ``began`` is called each time the tenure has begun."""
        known = self._tenure.number
        while True:
            led = self._tenure.lasts()
            await asyncio.get_running_loop().run_in_executor(self._thread, self.step)
            if self._tenure.number != known:
                known = self._tenure.number
                logger.info("leading as %s", self._identity)
                await began()
            elif led and not self._tenure.lasts():
                logger.warning("not leading any more: the Lease could not be renewed")
            sure = self._tenure.lasts() and not self._complaint
            await asyncio.sleep(RENEW_SECONDS if sure else POLL_SECONDS)

    def step(self) -> None:
        """Look at the Lease and do what ``decide`` says; failures are logged, once each."""
        try:
            self._step()
            self._complaint = ""
        except ObjectConflict:
            # Somebody else was quicker; the next look tells who.
            return
        except ClusterError as e:
            if e.reason != self._complaint:
                logger.warning("the Lease cannot be kept: %s: %s", e.reason, e)
            self._complaint = e.reason

    async def release(self) -> None:
        """Stop acting, and hand the Lease on once nothing is under way."""
        self._tenure.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FINISH_SECONDS
        while not self._tenure.rests() and loop.time() < deadline:
            await asyncio.sleep(FINISH_POLL_SECONDS)
        if self._tenure.rests():
            await loop.run_in_executor(self._thread, self._release)
        self._thread.shutdown(wait=False)

    def _step(self) -> None:
        found = self._cluster.read(LEASES, self._lease.namespace, self._lease.name)
        now = self._clock()
        self._seen = Sighting.of(found, self._seen, now) if found is not None else None
        action = decide(self._seen, self._identity, now)
        if action == "wait":
            self._tenure.end()
            return
        # Before it is sent: the others count from when it arrives, which is later.
        sent = self._clock()
        if found is None:
            written = self._cluster.create(LEASES, self._new())
        else:
            written = self._cluster.replace(LEASES, self._changed(found, taken=action == "take"))
        self._seen = Sighting.of(written, self._seen, sent)
        self._tenure.extend(sent + RENEW_DEADLINE_SECONDS)

    def _release(self) -> None:
        try:
            found = self._cluster.read(LEASES, self._lease.namespace, self._lease.name)
            if found is None or found["spec"].get("holderIdentity") != self._identity:
                return
            self._cluster.replace(
                LEASES, {**found, "spec": {**found["spec"], "holderIdentity": ""}}
            )
            logger.info("handed the Lease on")
        except ClusterError as e:
            logger.warning("the Lease runs out by itself, it could not be handed on: %s", e)

    def _new(self) -> dict[str, Any]:
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"namespace": self._lease.namespace, "name": self._lease.name},
            "spec": self._spec({}, taken=True),
        }

    def _changed(self, found: Object, taken: bool) -> dict[str, Any]:
        return {**found, "spec": self._spec(found.get("spec") or {}, taken)}

    def _spec(self, spec: Mapping[str, Any], taken: bool) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = {
            **spec,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now,
        }
        if taken:
            mine["acquireTime"] = now
            mine["leaseTransitions"] = (spec.get("leaseTransitions") or 0) + bool(spec)
        return mine
