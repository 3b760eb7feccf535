from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from shardedmodel_operator.cluster import events
from shardedmodel_operator.cluster.events import EventRecorder
from shardedmodel_operator.cluster.resources import Resource
from shardedmodel_operator.errors import ClusterUnavailable, ObjectConflict, ObjectNotFound
from tests.unit.operator.cluster.builders import model_body


class EventStore:
    """Stands for the API server's Events."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.calls = 0

    def create(self, resource: Resource, body: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        name = body["metadata"]["name"]
        if name in self.events:
            raise ObjectConflict("exists")
        self.events[name] = dict(body)
        return self.events[name]

    def merge(
        self, resource: Resource, namespace: str, name: str, patch: dict[str, Any]
    ) -> dict[str, Any]:
        self.calls += 1
        if name not in self.events:
            raise ObjectNotFound("gone")
        self.events[name].update(patch)
        return self.events[name]


def recorder(store: EventStore) -> EventRecorder:
    return EventRecorder(store, "pod-1", lambda: datetime(2026, 1, 2, tzinfo=UTC))  # type: ignore[arg-type]


def record(target: EventRecorder, *messages: str, body: dict[str, Any] | None = None) -> None:
    async def scenario() -> None:
        for message in messages:
            await target.record(body or model_body(), "Warning", "JobFailed", message)

    asyncio.run(scenario())


def counts(store: EventStore) -> list[int]:
    return [event["count"] for event in store.events.values()]


def test_what_happens_again_raises_the_count() -> None:
    store = EventStore()
    record(recorder(store), "boom", "boom", "boom")
    assert counts(store) == [3]


def test_another_message_is_another_event() -> None:
    store = EventStore()
    record(recorder(store), "boom", "bang")
    assert counts(store) == [1, 1]


def test_counts_go_on_after_a_restart_of_the_operator() -> None:
    store = EventStore()
    record(recorder(store), "boom", "boom")
    record(recorder(store), "boom")
    assert counts(store) == [3]


def test_an_event_that_expired_is_written_anew() -> None:
    store = EventStore()
    target = recorder(store)
    record(target, "boom", "boom")
    store.events.clear()
    record(target, "boom")
    assert counts(store) == [1]


def test_a_model_made_anew_has_events_of_its_own() -> None:
    store = EventStore()
    target = recorder(store)
    record(target, "boom", body=model_body(uid="old"))
    record(target, "boom", body=model_body(uid="new"))
    assert len(store.events) == 2


def test_an_event_speaks_of_its_model() -> None:
    store = EventStore()
    record(recorder(store), "boom")
    event = next(iter(store.events.values()))
    assert event["involvedObject"]["uid"] == "model-uid"
    assert event["lastTimestamp"] == "2026-01-02T00:00:00Z"
    assert event["source"] == {"component": "shardedmodel-operator"}


def test_a_long_message_is_cut_to_what_servers_take() -> None:
    store = EventStore()
    record(recorder(store), "ä" * 2000)
    event = next(iter(store.events.values()))
    assert len(event["message"].encode()) <= 1024


def test_an_event_that_cannot_be_written_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(EventStore):
        def create(self, resource: Resource, body: dict[str, Any]) -> dict[str, Any]:
            raise ClusterUnavailable("down")

    record(recorder(Broken()), "boom")
    assert "JobFailed is lost: down" in caplog.text


def test_only_so_many_counts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "REMEMBERED", 1)
    store = EventStore()
    record(recorder(store), "a", "b", "a")
    assert counts(store) == [2, 1]
