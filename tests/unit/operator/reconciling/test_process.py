from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from shardedmodel_operator.errors import ClusterUnavailable
from shardedmodel_operator.reconciling import process
from shardedmodel_operator.reconciling.process import Operator
from shardedmodel_operator.settings import Settings


def operator() -> Operator:
    cluster = SimpleNamespace(calls={})
    return Operator(Settings(runtime_image="runtime:1"), cluster)  # type: ignore[arg-type]


def test_an_operator_that_just_started_is_alive() -> None:
    assert operator()._healthy()


def test_a_loop_that_hangs_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    found = operator()
    monkeypatch.setattr(process, "STUCK_SECONDS", -1.0)
    assert not found._healthy()


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
