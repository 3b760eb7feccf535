from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shardedmodel_operator.cluster.refusals import read_refusal
from shardedmodel_operator.cluster.resources import Resource
from shardedmodel_operator.errors import ClusterAccessDenied


class Server:
    """Answers one list of Events, and keeps what was asked for."""

    def __init__(self, *events: dict[str, Any], error: Exception | None = None) -> None:
        self.events = events
        self.error = error
        self.asked: list[tuple[str, str, str]] = []

    def list_pages(
        self, resource: Resource, namespace: str, *, fields: str
    ) -> Iterator[list[dict[str, Any]]]:
        self.asked.append((resource.kind, namespace, fields))
        if self.error is not None:
            raise self.error
        yield list(self.events)


def read(server: Server) -> str:
    return read_refusal(server, "team-a", "u-1")  # type: ignore[arg-type]


def test_the_last_event_counts() -> None:
    early = {"message": "exceeded quota: a", "lastTimestamp": "2026-01-01T00:00:00Z"}
    late = {"message": "exceeded quota: b", "lastTimestamp": "2026-01-01T00:00:09Z"}
    assert read(Server(late, early)) == "exceeded quota: b"


def test_only_events_of_the_object_are_asked_for() -> None:
    server = Server()
    read(server)
    assert server.asked == [("Event", "team-a", "involvedObject.uid=u-1,reason=FailedCreate")]


def test_an_event_without_a_time_is_one_as_well() -> None:
    assert read(Server({"message": "denied", "lastTimestamp": None})) == "denied"


def test_without_events_nothing_is_known() -> None:
    assert read(Server()) == ""


def test_events_that_may_not_be_read_are_no_error() -> None:
    assert read(Server(error=ClusterAccessDenied("no right"))) == ""
