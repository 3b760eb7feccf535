from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from shardedmodel_operator.cluster.cache import Key
from shardedmodel_operator.errors import ClusterUnavailable
from shardedmodel_operator.logs import current_model
from shardedmodel_operator.reconciling.metrics import Metrics
from shardedmodel_operator.reconciling.queue import WorkQueue
from shardedmodel_operator.reconciling.worker import work
from tests.unit.operator.reconciling.builders import metrics as metrics_of

A, B = Key("n", "a"), Key("n", "b")


def run_worker(
    reconcile: Callable[[Key], Awaitable[float | None]], *keys: Key, leads: bool = True
) -> tuple[Metrics, WorkQueue]:
    """Let one worker work on ``keys`` until nothing more is due."""

    async def scenario() -> tuple[Metrics, WorkQueue]:
        queue = WorkQueue(lambda: 0.0)
        metrics = metrics_of(queue)
        for key in keys:
            await queue.add(key)
        worker = asyncio.create_task(work(queue, reconcile, metrics, lambda: 0.0, lambda: leads))
        while queue.depth():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        worker.cancel()
        return metrics, queue

    return asyncio.run(scenario())


def test_a_failing_model_does_not_keep_others_from_their_turn() -> None:
    seen: list[Key] = []

    async def reconcile(key: Key) -> None:
        seen.append(key)
        if key == A:
            raise ClusterUnavailable("down")

    run_worker(reconcile, A, B)
    assert seen == [A, B]


def test_a_fault_of_our_own_is_logged_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Key] = []

    async def reconcile(key: Key) -> None:
        seen.append(key)
        raise ZeroDivisionError

    run_worker(reconcile, A, B)
    assert seen == [A, B]
    assert "ZeroDivisionError" in caplog.text


def test_outcomes_are_counted_by_result_and_reason() -> None:
    async def reconcile(key: Key) -> None:
        if key == A:
            raise ClusterUnavailable("down")

    text = run_worker(reconcile, A, B)[0].render()
    assert 'shardedmodel_operator_reconciles_total{result="success"} 1' in text
    assert 'shardedmodel_operator_reconciles_total{result="error"} 1' in text
    assert 'shardedmodel_operator_errors_total{reason="ClusterUnavailable"} 1' in text


def test_log_lines_of_a_reconciliation_know_their_model() -> None:
    known: list[str] = []

    async def reconcile(key: Key) -> None:
        logging.getLogger("any").info("something")
        known.append(current_model.get())

    run_worker(reconcile, A)
    assert known == ["n/a"]


def test_one_that_does_not_lead_drops_what_it_is_told() -> None:
    seen: list[Key] = []

    async def reconcile(key: Key) -> None:
        seen.append(key)

    metrics, queue = run_worker(reconcile, A, B, leads=False)
    assert not seen
    assert 'reconciles_total{result="success"} 0' in metrics.render()
    assert queue.depth() == 0
