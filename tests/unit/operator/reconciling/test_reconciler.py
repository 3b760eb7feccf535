from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shardedmodel_operator.api.resource import FINALIZER
from shardedmodel_operator.api.status import ShardedModelStatus, ShardingStatus
from shardedmodel_operator.cluster.cache import Key, ObjectCache
from shardedmodel_operator.cluster.resources import (
    JOBS,
    MODELS,
    PODS,
    SERVICES,
    STATEFULSETS,
    Resource,
)
from shardedmodel_operator.errors import ClusterAccessDenied, ClusterUnavailable, ObjectRejected
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.observed import Observed, ReportTarget
from shardedmodel_operator.planning.result import EventDraft, ObjectRef, Plan
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_operator.reconciling import reconciler as module
from shardedmodel_operator.reconciling.reconciler import Reconciler
from shardedmodel_runtime.report import GroupReport, ShardProgress
from tests.unit.operator.cluster.builders import child_body, model_body

LLAMA = Key("team-a", "llama")
SAME = ShardedModelStatus()
NEW = ShardedModelStatus(observed_generation=1, phase="Sharding")
STEP = EventDraft("Normal", "JobCreated", "made")


class World:
    """Cluster, events and reports in one; keeps the order of what is done to it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done: list[str] = []
        self.error = error
        self.asked: list[ReportTarget] = []
        self.status: dict[str, Any] = {}
        self.there: dict[str, Any] | None = None

    def read(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        return self.there

    def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.done.append(f"apply {manifest['kind']}")
        return manifest

    def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        self.done.append(f"delete {resource.kind} {name} {uid}")

    def list_pages(
        self, resource: Resource, namespace: str, *, fields: str
    ) -> Iterator[list[dict[str, Any]]]:
        yield [{"message": f"{resource.kind} of {namespace}: {fields}"}]

    def replace_status(self, body: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        self.done.append("status")
        self.status = status
        return {**model_body(version=2), "status": status}

    def set_finalizer(self, body: dict[str, Any], finalizer: str, present: bool) -> dict[str, Any]:
        self.done.append(f"finalizer {present}")
        return model_body(version=2)

    async def record(self, body: dict[str, Any], kind: str, reason: str, message: str) -> None:
        self.done.append(f"event {reason}")

    async def pull(
        self, targets: Sequence[ReportTarget]
    ) -> tuple[dict[str, ShardProgress], dict[str, GroupReport]]:
        self.asked = list(targets)
        progress = ShardProgress(objects=1, bytes=2, bytes_done=1, bytes_per_second=1, seconds=1)
        return {targets[0].key: progress}, {}


def reconcile(
    world: World, cache: ObjectCache, decided: Plan, monkeypatch: pytest.MonkeyPatch
) -> tuple[float | None, Observed | None]:
    """Reconcile once with a plan that is given; gives the answer and what the planner saw."""
    seen: list[Observed] = []

    def plan(model: object, observed: Observed, *_: object) -> Plan:
        seen.append(observed)
        return decided

    monkeypatch.setattr(module, "plan", plan)
    target = Reconciler(
        cluster=world,  # type: ignore[arg-type]
        cache=cache,
        events=world,  # type: ignore[arg-type]
        reports=world,  # type: ignore[arg-type]
        settings=PlanSettings(runtime_image="runtime:1"),
        now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
    )
    return asyncio.run(target.reconcile(LLAMA)), seen[0] if seen else None


def with_model() -> ObjectCache:
    cache = ObjectCache()
    cache.put(MODELS, model_body())
    return cache


def test_a_model_that_is_gone_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    assert reconcile(world, ObjectCache(), Plan(NEW), monkeypatch) == (None, None)
    assert world.done == []


def test_at_the_fixed_point_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    reconcile(world, with_model(), Plan(SAME), monkeypatch)
    assert world.done == []


def test_objects_come_before_the_status_that_speaks_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    ref = ObjectRef("batch/v1", "Job", "team-a", "old", "u-1")
    plan = Plan(NEW, apply=(child_body(),), delete=(ref,), events=(STEP,))
    reconcile(world, with_model(), plan, monkeypatch)
    assert world.done == ["apply Job", "delete Job old u-1", "status", "event JobCreated"]


def test_what_was_deleted_is_not_seen_again_though_its_event_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, cache = World(), with_model()
    cache.put(JOBS, child_body(uid="u-1"))
    ref = ObjectRef("batch/v1", "Job", "team-a", "old", "u-1")
    reconcile(world, cache, Plan(SAME, delete=(ref,)), monkeypatch)
    _, seen = reconcile(world, cache, Plan(SAME), monkeypatch)
    assert seen is not None
    assert seen.jobs == ()


def test_the_finalizer_is_set_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    plan = Plan(NEW, apply=(child_body(),), events=(STEP,), finalizer=True)
    reconcile(world, with_model(), plan, monkeypatch)
    assert world.done == ["finalizer True", "apply Job", "status", "event JobCreated"]


def test_a_model_that_goes_is_let_go_after_everything_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, cache, body = World(), ObjectCache(), model_body()
    body["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FINALIZER]}
    cache.put(MODELS, body)
    reconcile(world, cache, Plan(SAME, events=(STEP,), finalizer=False), monkeypatch)
    assert world.done == ["event JobCreated", "finalizer False"]


def test_the_planner_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(SAME, requeue_after=2.0)
    assert reconcile(World(), with_model(), plan, monkeypatch)[0] == 2.0


def test_a_job_that_has_lacked_pods_for_long_is_asked_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, body = ObjectCache(), model_body()
    body["status"] = {"sharding": {"podsMissingSince": "2026-01-01T00:00:00Z"}}
    cache.put(MODELS, body)
    job = child_body()
    owner = {"uid": body["metadata"]["uid"], "controller": True}
    job["metadata"]["ownerReferences"] = [owner]
    cache.put(JOBS, job)
    _, seen = reconcile(World(), cache, Plan(SAME), monkeypatch)
    assert seen is not None
    uid = job["metadata"]["uid"]
    assert seen.refusals == {uid: f"Event of team-a: involvedObject.uid={uid},reason=FailedCreate"}


def test_a_group_that_the_service_left_is_looked_up_in_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, world = with_model(), World()
    revision = {labels.REVISION: "old"}
    cache.put(SERVICES, child_body("Service", "llama", spec={"selector": {labels.REVISION: "new"}}))
    cache.put(STATEFULSETS, child_body("StatefulSet", uid="set", extra_labels=revision))
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    cache.put(PODS, child_body("Pod", "llama-old-0-0", owner="set", status=ready))
    target = {"targetRef": {"kind": "Pod", "name": "llama-old-0-0"}}
    world.there = {"subsets": [{"addresses": [target]}]}
    _, seen = reconcile(world, cache, Plan(SAME), monkeypatch)
    assert seen is not None
    assert seen.sent_to == {"llama-old-0-0"}


def test_what_was_just_applied_is_seen_before_its_event_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = with_model()
    reconcile(World(), cache, Plan(SAME, apply=(child_body(),)), monkeypatch)
    assert len(cache.observe(LLAMA).jobs) == 1


def test_the_status_that_was_just_written_is_not_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, cache = World(), with_model()
    reconcile(world, cache, Plan(NEW), monkeypatch)
    reconcile(world, cache, Plan(NEW), monkeypatch)
    assert world.done == ["status"]


def test_a_refusal_is_told_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(ObjectRejected("spec.bogus: not declared"))
    plan = Plan(NEW, apply=(child_body(),), events=(STEP,))
    with pytest.raises(ObjectRejected):
        reconcile(world, with_model(), plan, monkeypatch)
    assert world.done == ["status", "event ObjectRejected"]
    stalled = next(c for c in world.status["conditions"] if c["type"] == "Stalled")
    assert "spec.bogus" in stalled["message"]


def test_what_was_reached_is_told_also_when_the_next_step_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(ClusterAccessDenied("exceeded quota: count/statefulsets.apps"))
    found = ShardingStatus(request_hash="a", layout_hash="b", unmatched_tensors=2)
    sharded = NEW.model_copy(update={"sharding": found})
    with pytest.raises(ClusterAccessDenied):
        reconcile(world, with_model(), Plan(sharded, apply=(child_body(),)), monkeypatch)
    assert world.done == [
        "status",
        "event Sharded",
        "event TensorsReplicated",
        "event ClusterAccessDenied",
    ]


def test_a_refusal_that_is_told_already_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world, cache = World(ObjectRejected("no")), with_model()
    for _ in range(2):
        with pytest.raises(ObjectRejected):
            reconcile(world, cache, Plan(NEW, apply=(child_body(),)), monkeypatch)
    assert world.done == ["status", "event ObjectRejected"]


def test_a_server_that_is_away_leaves_the_status_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(ClusterUnavailable("timeout"))
    with pytest.raises(ClusterUnavailable):
        reconcile(world, with_model(), Plan(NEW, apply=(child_body(),)), monkeypatch)
    assert world.done == []


def test_a_running_job_is_asked_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world, cache = World(), with_model()
    cache.put(JOBS, child_body(uid="job-uid"))
    running = {
        "phase": "Running",
        "podIP": "10.0.0.9",
        "containerStatuses": [{"name": "shard", "state": {"running": {}}}],
    }
    pod = child_body("Pod", "llama-shard-x", uid="pod-uid", owner="job-uid", status=running)
    cache.put(PODS, pod)
    _, seen = reconcile(world, cache, Plan(SAME), monkeypatch)
    assert [target.url for target in world.asked] == ["http://10.0.0.9:8080/report"]
    assert seen is not None
    assert seen.shard_progress["llama-shard-x"].bytes_done == 1


def test_a_refusal_does_not_keep_what_is_outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(ObjectRejected("exceeded quota: count/jobs.batch"))
    ref = ObjectRef("batch/v1", "Job", "team-a", "old", "u-1")
    with pytest.raises(ObjectRejected):
        reconcile(world, with_model(), Plan(NEW, (child_body(),), (ref,)), monkeypatch)
    assert world.done[0] == "delete Job old u-1"


def test_an_object_of_somebody_else_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.there = {"metadata": {"name": "theirs"}}
    with pytest.raises(ObjectRejected, match="is not this model's; remove it or rename"):
        reconcile(world, with_model(), Plan(NEW, apply=(child_body(),)), monkeypatch)
    assert world.done == ["status", "event ObjectRejected"]


def test_an_object_of_ours_that_was_not_seen_yet_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    owner = {"uid": model_body()["metadata"]["uid"]}
    world.there = {"metadata": {"name": "ours", "ownerReferences": [owner]}}
    reconcile(world, with_model(), Plan(SAME, apply=(child_body(),)), monkeypatch)
    assert world.done == ["apply Job"]


def progress(done: int) -> ShardedModelStatus:
    return NEW.model_copy(
        update={"sharding": ShardingStatus(request_hash="0" * 20, attempt=1, bytes_done=done)}
    )


def test_progress_alone_is_written_at_most_every_ten_seconds() -> None:
    world, cache = World(), with_model()
    clock = datetime(2026, 1, 2, tzinfo=UTC)
    plans = iter([progress(1), progress(2), progress(3)])
    target = Reconciler(
        cluster=world,  # type: ignore[arg-type]
        cache=cache,
        events=world,  # type: ignore[arg-type]
        reports=world,  # type: ignore[arg-type]
        settings=PlanSettings(runtime_image="runtime:1"),
        now=lambda: clock,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "plan", lambda *_: Plan(next(plans), requeue_after=60.0))
        written, waits = [], []
        for seconds in (0, 1, 10):
            clock += timedelta(seconds=seconds)
            waits.append(asyncio.run(target.reconcile(LLAMA)))
            written.append(world.status["sharding"]["bytesDone"])
    assert (written, waits) == ([1, 1, 3], [60.0, 10.0, 60.0])
