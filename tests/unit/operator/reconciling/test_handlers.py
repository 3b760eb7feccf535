from __future__ import annotations

import asyncio
from typing import Any

import kopf
import kubernetes
import pytest

from shardedmodel_operator.cluster.cache import Key, ObjectCache
from shardedmodel_operator.cluster.client import LIST_PAGE
from shardedmodel_operator.cluster.resources import BUDGETS, JOBS, MODELS, WATCHED, Resource
from shardedmodel_operator.reconciling import handlers
from shardedmodel_operator.reconciling.handlers import (
    build_registry,
    connection_info,
    kopf_settings,
)
from shardedmodel_operator.reconciling.queue import WorkQueue
from tests.unit.operator.cluster.builders import child_body, model_body
from tests.unit.operator.reconciling.builders import Clock, phases, watches

LLAMA = Key("team-a", "llama")


def enqueued(resource: Resource, event_type: str | None, body: dict[str, Any]) -> int:
    """Send one event; gives how many keys it enqueued."""
    queue = WorkQueue(lambda: 0.0)
    handler = handlers._event_handler(resource, ObjectCache(), queue, watches(), phases())
    asyncio.run(handler(event={"type": event_type, "object": body}, name="", retry=0))
    return queue.depth()


@pytest.mark.parametrize("event_type", [None, "ADDED", "MODIFIED", "DELETED"])
def test_every_kind_of_event_enqueues_the_owner(event_type: str | None) -> None:
    assert enqueued(JOBS, event_type, child_body()) == 1
    assert enqueued(MODELS, event_type, model_body()) == 1


def test_an_object_of_nobody_enqueues_nothing() -> None:
    assert enqueued(JOBS, "ADDED", child_body(model=None)) == 0


def test_a_deleted_object_leaves_the_cache() -> None:
    cache, queue = ObjectCache(), WorkQueue(lambda: 0.0)
    cache.put(MODELS, model_body())
    handler = handlers._event_handler(MODELS, cache, queue, watches(), phases())
    asyncio.run(handler(event={"type": "DELETED", "object": model_body()}))
    assert cache.model(LLAMA) is None


def test_every_event_is_a_sign_of_its_watch_and_a_model_tells_its_phase() -> None:
    clock = Clock()
    heard, seen = watches(clock=clock), phases()
    handler = handlers._event_handler(MODELS, ObjectCache(), WorkQueue(lambda: 0.0), heard, seen)
    clock.now = 10.0
    asyncio.run(handler(event={"type": "MODIFIED", "object": model_body()}))
    assert heard.ages()["shardedmodels"] == 0.0
    assert set(seen.states()) == {LLAMA}


@pytest.mark.parametrize("event_type", [None, "ADDED", "MODIFIED"])
def test_every_object_that_is_told_of_is_in_the_cache(event_type: str | None) -> None:
    cache, queue = ObjectCache(), WorkQueue(lambda: 0.0)
    handler = handlers._event_handler(MODELS, cache, queue, watches(), phases())
    asyncio.run(handler(event={"type": event_type, "object": model_body()}))
    assert cache.model(LLAMA) is not None


def test_nothing_is_registered_that_leaves_a_trace_on_objects() -> None:
    registry = build_registry(ObjectCache(), WorkQueue(lambda: 0.0), watches(), phases())
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert len(registry._watching.get_all_handlers()) == len(WATCHED)


def test_kopf_indexes_nothing_since_its_objects_would_wait_for_each_other() -> None:
    registry = build_registry(ObjectCache(), WorkQueue(lambda: 0.0), watches(), phases())
    assert not registry._indexing.get_all_handlers()


def test_what_the_server_has_beside_is_watched_too() -> None:
    watched = (*WATCHED, BUDGETS)
    registry = build_registry(ObjectCache(), WorkQueue(lambda: 0.0), watches(), phases(), watched)
    assert len(registry._watching.get_all_handlers()) == len(watched)
    assert "poddisruptionbudgets" in kopf_settings().watching.label_selectors


def test_children_are_selected_by_the_server_and_models_are_not() -> None:
    selectors = kopf_settings().watching.label_selectors
    assert "shardedmodels" not in selectors
    assert selectors["pods"] == "app.kubernetes.io/managed-by=shardedmodel-operator"


def test_kopf_writes_nothing_and_never_waits_for_ever() -> None:
    settings = kopf_settings()
    assert not settings.posting.enabled
    assert settings.scanning.disabled
    assert settings.peering.standalone
    watching = settings.watching
    assert None not in (watching.server_timeout, watching.client_timeout, watching.connect_timeout)
    assert isinstance(watching.server_timeout, int)


def test_kopf_reads_lists_by_pages_and_lets_objects_go_at_once() -> None:
    settings = kopf_settings()
    assert settings.watching.chunk_size == LIST_PAGE
    assert settings.queueing.idle_timeout < 1


def test_kopf_copies_no_object_to_find_what_has_changed() -> None:
    storage = kopf_settings().persistence.diffbase_storage
    body = kopf.Body({"spec": {"large": "field"}})
    assert storage.build(body=body) == {}
    assert storage.fetch(body=body) is None


def test_kopf_connects_as_the_client_does() -> None:
    configuration = kubernetes.client.Configuration(host="https://10.0.0.1")
    configuration.api_key["BearerToken"] = "Bearer abc"
    configuration.ssl_ca_cert = "/ca.crt"
    info = connection_info(configuration)
    assert (info.server, info.ca_path) == ("https://10.0.0.1", "/ca.crt")
    assert (info.scheme, info.token) == ("Bearer", "abc")


def test_kopf_connects_with_a_certificate_where_there_is_no_token() -> None:
    configuration = kubernetes.client.Configuration(host="https://10.0.0.1")
    configuration.cert_file, configuration.key_file = "/c.crt", "/c.key"
    info = connection_info(configuration)
    assert (info.scheme, info.token, info.certificate_path) == (None, None, "/c.crt")
