from __future__ import annotations

import asyncio
import json
import threading

import pytest

from shardedmodel_operator.cluster.cache import Key
from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.resources import BUDGETS, MODELS, WATCHED, Resource
from shardedmodel_operator.errors import ClusterUnavailable, NotLeading
from shardedmodel_operator.reconciling import process
from shardedmodel_operator.reconciling.handlers import CLIENT_SECONDS, SERVER_SECONDS
from shardedmodel_operator.reconciling.process import Operator
from shardedmodel_operator.settings import Settings
from tests.unit.operator.cluster.builders import model_body


def operator(lease: str = "") -> Operator:
    return Operator(Settings(runtime_image="runtime:1", lease=lease), Cluster(None))


def test_an_operator_that_just_started_is_alive() -> None:
    assert operator()._healthy()


def test_a_loop_that_hangs_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    found = operator()
    monkeypatch.setattr(process, "STUCK_SECONDS", -1.0)
    assert not found._healthy()


def test_a_watch_that_gave_no_sign_for_long_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    found = operator()
    monkeypatch.setattr(process, "BROKEN_SECONDS", 0.0)
    assert not found._healthy()


def test_an_idle_cluster_is_alive_since_its_streams_begin_anew() -> None:
    assert max(SERVER_SECONDS, CLIENT_SECONDS) < process.BROKEN_SECONDS


def test_without_a_lease_the_operator_leads() -> None:
    assert json.loads(operator()._report())["leading"]


def test_with_a_lease_it_waits_for_it_before_it_acts() -> None:
    found = operator("system/operator")
    assert not json.loads(found._report())["leading"]
    with pytest.raises(NotLeading), found._cluster.guard():
        raise AssertionError("acted")


def test_models_get_budgets_where_the_server_has_them_and_nobody_switched_them_off() -> None:
    def made(watched: tuple[Resource, ...], switch: bool) -> bool:
        settings = Settings(runtime_image="runtime:1", pod_disruption_budgets=switch)
        found = Operator(settings, Cluster(None), watched)
        return found._reconciler.settings.disruption_budgets

    assert made((*WATCHED, BUDGETS), True)
    assert not made(WATCHED, True)
    assert not made((*WATCHED, BUDGETS), False)


def test_two_processes_of_one_host_are_told_apart() -> None:
    one, other = (operator("system/operator")._election for _ in range(2))
    assert one is not None
    assert other is not None
    assert one._identity != other._identity


def test_who_comes_to_lead_looks_at_every_model() -> None:
    found = operator()
    found._cache.put(MODELS, model_body())
    asyncio.run(found._enqueue_all())
    assert found._queue.depth() == 1


def test_nothing_is_reconciled_before_everything_is_known() -> None:
    found = operator()
    key = Key("team-a", "llama")

    async def scenario() -> tuple[int, int]:
        task = asyncio.create_task(found._work())
        await found._queue.add(key)
        await asyncio.sleep(0)
        before = found._queue.depth()
        found._synced.set()
        while found._queue.depth():
            await asyncio.sleep(0)
        task.cancel()
        return before, found._queue.depth()

    assert asyncio.run(scenario()) == (1, 0)


def test_every_worker_may_call_at_the_same_time() -> None:
    found = operator()
    meeting = threading.Barrier(found._settings.workers)

    async def scenario() -> list[int]:
        found._provide_threads()
        calls = (asyncio.to_thread(meeting.wait, 10) for _ in range(meeting.parties))
        return await asyncio.gather(*calls)

    assert sorted(asyncio.run(scenario())) == list(range(meeting.parties))


def test_a_watch_that_fell_silent_is_not_alive() -> None:
    found = operator()
    found._sweeper.silent = frozenset({"Pod"})
    assert not found._healthy()
    assert json.loads(found._report())["silentWatches"] == ["Pod"]


def test_a_loop_that_turns_says_so() -> None:
    found = operator()
    found._ticked = 0.0

    async def scenario() -> None:
        task = asyncio.create_task(found._tick())
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(scenario())
    assert found._ticked > 0


def test_a_part_that_fails_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = operator()

    async def failing() -> None:
        raise ClusterUnavailable("may not list pods")

    async def waiting() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(found, "_own_work", lambda: [failing(), waiting()])
    monkeypatch.setattr(found, "_watch", waiting)
    with pytest.raises(ClusterUnavailable, match="may not list pods"):
        asyncio.run(found._serve())
