"""Why a controller makes no pods: nothing but its Events tells.

A Job or StatefulSet whose pods a quota or an admission plugin refuses has no condition that says
so; its controller writes an Event with the server's sentence, which names the pod.
"""

from __future__ import annotations

import logging

from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.resources import EVENTS
from shardedmodel_operator.errors import ClusterError

logger = logging.getLogger(__name__)

FAILED_CREATE = "FailedCreate"
"""Reason of the Events of the Job and the StatefulSet controller (their source)."""


def read_refusal(cluster: Cluster, namespace: str, uid: str) -> str:
    """What the controller of the object ``uid`` was last told; empty when nothing is known.

    Events are a convenience: where they cannot be read, the object's lack of pods is told alone.
    """
    fields = f"involvedObject.uid={uid},reason={FAILED_CREATE}"
    try:
        pages = list(cluster.list_pages(EVENTS, namespace, fields=fields))
    except ClusterError as e:
        logger.warning("events of %s cannot be read: %s", uid, e)
        return ""
    events = [event for page in pages for event in page]
    last = max(events, key=lambda event: event.get("lastTimestamp") or "", default={})
    return str(last.get("message") or "")
