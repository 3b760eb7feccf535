from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from shardedmodel_operator.cluster.cache import Key, ObjectCache, version
from shardedmodel_operator.cluster.resources import JOBS, MODELS, Resource
from shardedmodel_operator.errors import ClusterUnavailable
from shardedmodel_operator.reconciling import sweep
from shardedmodel_operator.reconciling.queue import WorkQueue
from shardedmodel_operator.reconciling.sweep import Sweeper
from tests.unit.operator.cluster.builders import child_body, model_body
from tests.unit.operator.reconciling.builders import Clock

LLAMA = Key("team-a", "llama")


class Lister:
    """Stands for the API server's lists."""

    def __init__(self, *bodies: dict[str, Any]) -> None:
        self.bodies = list(bodies)
        self.asked: list[tuple[str, str | None, str]] = []

    def list_pages(
        self, resource: Resource, namespace: str | None, selector: str
    ) -> Iterator[list[dict[str, Any]]]:
        self.asked.append((resource.plural, namespace, selector))
        for body in self.bodies:
            # A page may be empty and yet not the last.
            yield [body] if body["kind"] == resource.kind else []


def sweeper(lister: Lister, cache: ObjectCache, queue: WorkQueue | None = None) -> Sweeper:
    return Sweeper(lister, cache, queue or WorkQueue(lambda: 0.0), (), grace=0)  # type: ignore[arg-type]


def filled(*bodies: dict[str, Any]) -> ObjectCache:
    cache = ObjectCache()
    for body in bodies:
        cache.put(MODELS if body["kind"] == "ShardedModel" else JOBS, body)
    return cache


def test_what_vanished_unseen_is_forgotten() -> None:
    cache = filled(child_body())
    asyncio.run(sweeper(Lister(), cache).sweep(300))
    assert cache.observe(LLAMA).jobs == ()


def test_what_the_watch_did_not_tell_is_learned() -> None:
    cache = filled()
    asyncio.run(sweeper(Lister(child_body()), cache).sweep(300))
    assert len(cache.observe(LLAMA).jobs) == 1


def test_what_was_deleted_after_the_list_stays_deleted() -> None:
    cache = filled(child_body())
    cache.remove(JOBS, "child-uid", version(child_body()))
    target = sweeper(Lister(child_body()), cache)
    asyncio.run(target.sweep(300))
    asyncio.run(target.sweep(300))
    assert (cache.observe(LLAMA).jobs, target.silent) == ((), frozenset())


def test_every_model_is_looked_at_one_after_another_until_the_next_sweep() -> None:
    clock = Clock()
    queue = WorkQueue(clock)
    bodies = [model_body(name=f"m{number}", uid=f"u{number}") for number in range(4)]
    asyncio.run(sweeper(Lister(*bodies), filled(*bodies), queue).sweep(300))
    due = []
    for clock.now in (0.0, 75.0, 150.0, 225.0):
        due.append(queue.depth())
    assert due == [1, 2, 3, 4]


def test_the_model_of_what_the_watch_did_not_tell_is_looked_at_at_once() -> None:
    queue = WorkQueue(lambda: 0.0)
    asyncio.run(sweeper(Lister(child_body()), filled(), queue).sweep(300))
    assert queue.depth() == 1


def test_the_model_of_what_vanished_unseen_is_looked_at_at_once() -> None:
    queue = WorkQueue(lambda: 0.0)
    asyncio.run(sweeper(Lister(), filled(child_body()), queue).sweep(300))
    assert queue.depth() == 1


def test_of_a_list_nothing_is_kept_that_the_cache_knows() -> None:
    lister, cache = Lister(model_body(), child_body()), filled(model_body())
    target = sweeper(lister, cache)
    models, jobs = (asyncio.run(target._list(resource)) for resource in (MODELS, JOBS))
    assert (len(models.uids), models.news) == (1, [])
    assert (len(jobs.uids), len(jobs.news)) == (1, 1)


def test_a_watch_that_misses_something_twice_is_called_silent() -> None:
    lister, cache = Lister(child_body(version=1)), filled()
    target = sweeper(lister, cache)
    asyncio.run(target.sweep(300))
    once = target.silent
    lister.bodies = [child_body(version=2)]
    asyncio.run(target.sweep(300))
    assert (once, target.silent) == (frozenset(), frozenset({"Job"}))


def test_a_watch_that_tells_again_is_silent_no_more() -> None:
    lister, cache = Lister(child_body(version=1)), filled()
    target = sweeper(lister, cache)
    for number in (1, 2, 2):
        lister.bodies = [child_body(version=number)]
        asyncio.run(target.sweep(300))
    assert target.silent == frozenset()


def test_only_our_own_children_are_listed() -> None:
    lister = Lister()
    asyncio.run(sweeper(lister, filled()).sweep(300))
    selectors = {plural: selector for plural, _, selector in lister.asked}
    assert selectors["pods"] == "app.kubernetes.io/managed-by=shardedmodel-operator"
    assert selectors["shardedmodels"] == ""


def test_each_namespace_is_listed_by_itself() -> None:
    lister = Lister()
    target = Sweeper(lister, filled(), WorkQueue(lambda: 0.0), ("a", "b"), grace=0)  # type: ignore[arg-type]
    asyncio.run(target.sweep(300))
    assert {namespace for _, namespace, _ in lister.asked} == {"a", "b"}


def test_the_start_waits_until_the_watches_told_of_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "READY_POLL_SECONDS", 0.001)

    async def scenario() -> tuple[bool, bool]:
        cache = filled()
        target = sweeper(Lister(model_body()), cache)
        waiting = asyncio.create_task(target.wait_until_ready())
        await asyncio.sleep(0.02)
        early = target.ready
        cache.put(MODELS, model_body())
        await waiting
        return early, target.ready

    assert asyncio.run(scenario()) == (False, True)


def test_a_list_that_fails_does_not_end_the_sweeping(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Lister):
        def list_pages(self, *_: object) -> Iterator[list[dict[str, Any]]]:
            raise ClusterUnavailable("down")

    async def scenario() -> bool:
        task = asyncio.create_task(sweeper(Broken(), filled()).run(0.001))
        await asyncio.sleep(0.05)
        alive = not task.done()
        task.cancel()
        return alive

    assert asyncio.run(scenario())
    assert "sweep: down" in caplog.text
