"""Kubernetes Events with counts: what happens again raises a count, it does not fill the list.

The Event of a model, reason and message has one name, so that it is found again also after the
operator was restarted; the number so far is then read from the server's answer. Events are a
convenience for people: one that cannot be written is logged and forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from shardedmodel_operator.cluster.client import FIELD_MANAGER, Cluster
from shardedmodel_operator.cluster.resources import EVENTS, Object
from shardedmodel_operator.errors import ClusterError, ObjectConflict, ObjectNotFound
from shardedmodel_runtime.naming import content_hash

logger = logging.getLogger(__name__)

MESSAGE_LIMIT = 1024
"""Bytes of a core/v1 Event's message that every server takes (its validation)."""

NAME_LIMIT = 200
"""Characters of a model's name in an Event's: with a dot and a hash it stays below 253."""

REMEMBERED = 1024
"""Events whose counts are kept in memory; one that fell out costs one call more."""

EventType = Literal["Normal", "Warning"]


class EventRecorder:
    """Writes Events about models; to be used from one event loop."""

    def __init__(
        self,
        cluster: Cluster,
        instance: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Write through ``cluster``, as ``instance`` (the operator's pod), at times of ``now``."""
        self._cluster = cluster
        self._instance = instance
        self._now = now
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def record(self, model: Object, kind: EventType, reason: str, message: str) -> None:
        """Write the Event, or raise its count; never fails."""
        body = self._body(model, kind, reason, message)
        try:
            count = await asyncio.to_thread(self._write, body)
        except ClusterError as e:
            logger.warning("event %s is lost: %s", reason, e)
            return
        self._counts[body["metadata"]["name"]] = count
        while len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    def _write(self, body: dict[str, Any]) -> int:
        """Write the Event and give its count."""
        known = self._counts.get(body["metadata"]["name"])
        if known is None:
            try:
                self._cluster.create(EVENTS, body)
                return 1
            except ObjectConflict:
                # Of a former life of the operator: the answer to an empty patch tells the count.
                known = int(self._raise_count(body, None).get("count") or 0)
        try:
            self._raise_count(body, known + 1)
            return known + 1
        except ObjectNotFound:
            # The server keeps Events for an hour.
            self._cluster.create(EVENTS, body)
            return 1

    def _raise_count(self, body: dict[str, Any], count: int | None) -> dict[str, Any]:
        metadata = body["metadata"]
        patch = {"lastTimestamp": body["lastTimestamp"]}
        if count is not None:
            patch["count"] = count
        return self._cluster.merge(EVENTS, metadata["namespace"], metadata["name"], patch)

    def _body(self, model: Object, kind: EventType, reason: str, message: str) -> dict[str, Any]:
        metadata = model["metadata"]
        namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
        message = message.encode()[:MESSAGE_LIMIT].decode(errors="ignore")
        now = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        digest = content_hash([uid, kind, reason, message])
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": namespace, "name": f"{name[:NAME_LIMIT]}.{digest}"},
            "involvedObject": {
                "apiVersion": model["apiVersion"],
                "kind": model["kind"],
                "namespace": namespace,
                "name": name,
                "uid": uid,
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
