from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
from yarl import URL

from shardedmodel_operator.cluster.calls import ApiCall, target_of
from shardedmodel_operator.cluster.resources import JOBS, MODELS, PODS
from shardedmodel_operator.reconciling.watches import Watches
from tests.unit.operator.reconciling.builders import Clock, watches


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (JOBS.path(None), (None, "jobs")),
        (JOBS.path("team-a"), ("team-a", "jobs")),
        (PODS.path("team-a", "x"), ("team-a", "pods")),
        (PODS.path(None), (None, "pods")),
        (MODELS.path("team-a", "x", "status"), ("team-a", "shardedmodels/status")),
        ("/api/v1/namespaces/team-a", (None, "namespaces")),
    ],
)
def test_a_path_tells_what_it_addresses(path: str, target: tuple[str | None, str]) -> None:
    assert target_of(path) == target


def test_a_watch_without_a_sign_grows_old() -> None:
    clock = Clock()
    found = watches(clock=clock)
    clock.now = 10.0
    found.sign("team-a", "pods")
    clock.now = 15.0
    assert (found.ages()["pods"], found.ages()["jobs"]) == (5.0, 15.0)


def test_the_longest_silent_namespace_counts() -> None:
    clock = Clock()
    found = watches("team-a", "team-b", clock=clock)
    clock.now = 10.0
    found.sign("team-a", "pods")
    assert found.ages()["pods"] == 10.0
    found.sign("team-b", "pods")
    assert found.ages()["pods"] == 0.0


def test_a_sign_of_what_is_not_watched_is_no_sign() -> None:
    clock = Clock()
    found = watches("team-a", clock=clock)
    clock.now = 10.0
    found.sign("team-b", "pods")
    assert set(found.ages().values()) == {10.0}


def told(path: str, status: int | None) -> tuple[dict[str, float], Counter[ApiCall]]:
    """Let the session tell of one request, ``None`` of one without answer; gives ages and calls."""
    clock, calls = Clock(), Counter[ApiCall]()
    found = Watches((), calls, clock)
    clock.now = 10.0
    params: Any = SimpleNamespace(
        url=URL(f"https://10.0.0.1{path}"), response=SimpleNamespace(status=status)
    )
    ending = found._failed if status is None else found._answered
    asyncio.run(ending(params, None, params))
    return found.ages(), calls


def test_a_stream_that_begins_is_a_sign_although_nothing_happens() -> None:
    ages, calls = told(PODS.path(None) + "?watch=true", 200)
    assert (ages["pods"], ages["jobs"]) == (0.0, 10.0)
    assert calls == {("watch", "pods", "200"): 1}


def test_a_stream_that_is_refused_is_none() -> None:
    ages, calls = told(PODS.path(None) + "?watch=true", 403)
    assert ages["pods"] == 10.0
    assert calls == {("watch", "pods", "403"): 1}


def test_a_server_that_cannot_be_reached_gives_no_sign() -> None:
    ages, calls = told(PODS.path(None) + "?watch=true", None)
    assert ages["pods"] == 10.0
    assert calls == {("watch", "pods", "none"): 1}


def test_lists_are_told_from_watches() -> None:
    assert told(JOBS.path(None), 200)[1] == {("list", "jobs", "200"): 1}


def test_the_session_carries_the_credentials_and_listens() -> None:
    async def scenario() -> None:
        info = kopf.ConnectionInfo(server="https://10.0.0.1", token="abc")
        session = watches().session(info).aiohttp_session
        assert session.headers["Authorization"] == "Bearer abc"
        (trace,) = session.trace_configs
        assert (len(trace.on_request_end), len(trace.on_request_exception)) == (1, 1)
        await session.close()

    asyncio.run(scenario())


def test_credentials_that_were_refused_are_not_offered_as_new_ones() -> None:
    async def scenario() -> None:
        heard = watches()
        old, renewed = (
            kopf.ConnectionInfo(server="https://10.0.0.1", token=token) for token in ("a", "b")
        )
        first, again, other = (heard.session(info) for info in (old, old, renewed))
        assert first == again
        assert first != other
        for session in (first, other):
            await session.aiohttp_session.close()

    asyncio.run(scenario())
