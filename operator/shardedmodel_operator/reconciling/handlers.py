"""The wiring to kopf: watches fill the cache and enqueue keys. No handler decides anything.

Only event handlers are registered: they leave neither finalizer nor annotation on anyone's object.
kopf's own indices are not used: until all listed objects are in them each object waits for all
others, and wakes at each of them, which takes minutes where there are thousands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import kopf
import kubernetes

from shardedmodel_operator.cluster.cache import ObjectCache, key_of, version
from shardedmodel_operator.cluster.client import LIST_PAGE
from shardedmodel_operator.cluster.configuration import load_configuration
from shardedmodel_operator.cluster.resources import (
    CHILDREN,
    MODELS,
    OPTIONAL,
    WATCHED,
    Object,
    Resource,
)
from shardedmodel_operator.planning.labels import MANAGED_BY, MANAGER
from shardedmodel_operator.reconciling.phases import Phases
from shardedmodel_operator.reconciling.queue import WorkQueue
from shardedmodel_operator.reconciling.watches import Watches

SERVER_SECONDS = 240
"""A watch is asked to end after so long, so that a connection that fell silent is replaced;
longer than a minute, so that connecting anew costs nothing, shorter than the resync. A whole
number, since kopf hands it on as it is and servers refuse `240.0`."""
CLIENT_SECONDS = SERVER_SECONDS + 60
"""When the server does not end a watch, we do."""
CONNECT_SECONDS = 10.0
"""Time to connect to the API server."""
INACTIVITY_SECONDS = 90.0
"""A watch without an event or bookmark for so long is replaced; servers send a bookmark a
minute. Older ones send them more rarely: then a quiet watch is replaced a little more often."""
REQUEST_SECONDS = 30.0
"""Time for one page of a list."""
IDLE_SECONDS = 0.05
"""How long kopf keeps an object at hand after its event. By default it does so for seconds, and at
the start that is every object there is, whole."""

SELECTOR = f"{MANAGED_BY}={MANAGER}"
"""Jobs, StatefulSets, Services and pods of others are never sent to us, let alone kept."""


class NoDiffs(kopf.DiffBaseStorage):
    """Remembers nothing of objects: no handler of ours asks what has changed in one.

    kopf would copy each object at each event, whole, which is half of what it takes for an event.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Find nothing worth comparing."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        """Know of no former state."""

    def store(self, **_: Any) -> None:
        """Keep nothing."""


def build_registry(
    cache: ObjectCache,
    queue: WorkQueue,
    watches: Watches,
    phases: Phases,
    watched: Sequence[Resource] = WATCHED,
    configure: Callable[[], kubernetes.client.Configuration] = load_configuration,
) -> kopf.OperatorRegistry:
    """Register the handlers of all watched kinds.

    Args:
        cache: what the watches fill.
        queue: what is told of each change.
        watches: what is told that a watch gave a sign.
        phases: what is told of each model's status.
        watched: the kinds.
        configure: finds the API server and credentials; asked anew when they are refused.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def connect(**_: Any) -> kopf.AiohttpSession:
        # Reads files, and may run a kubeconfig's credential plugin.
        return watches.session(connection_info(await asyncio.to_thread(configure)))

    for resource in watched:
        where = (resource.group, resource.version, resource.plural)
        event = _event_handler(resource, cache, queue, watches, phases)
        kopf.on.event(*where, id=f"enqueue-{resource.plural}", registry=registry)(event)
    return registry


def kopf_settings() -> kopf.OperatorSettings:
    """Settings under which watches that cannot fall silent for long and nothing is written."""
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.inactivity_timeout = INACTIVITY_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = CONNECT_SECONDS
    for resource in (*CHILDREN, *OPTIONAL):
        settings.watching.label_selectors[resource.plural] = SELECTOR
    # Ours only enqueue, they are done at once and need no limit.
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = IDLE_SECONDS
    settings.watching.chunk_size = LIST_PAGE
    settings.persistence.diffbase_storage = NoDiffs()
    # The kinds are known and the namespaces are given: no right to list CRDs and namespaces.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    return settings


def connection_info(configuration: kubernetes.client.Configuration) -> kopf.ConnectionInfo:
    """Tell kopf what the client found: one way to find the server for both."""
    scheme, _, token = (configuration.get_api_key_with_prefix("BearerToken") or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )


def _event_handler(
    resource: Resource, cache: ObjectCache, queue: WorkQueue, watches: Watches, phases: Phases
) -> Callable[..., Coroutine[Any, Any, None]]:
    async def enqueue(event: kopf.RawEvent, **_: Any) -> None:
        body: Object = event["object"]
        watches.sign(body["metadata"]["namespace"], resource.plural)
        if event["type"] == "DELETED":
            cache.remove(resource, body["metadata"]["uid"], version(body))
        else:
            cache.put(resource, body)
            if resource == MODELS:
                phases.see(body)
        key = key_of(resource, body)
        if key is not None:
            await queue.add(key)

    return enqueue
