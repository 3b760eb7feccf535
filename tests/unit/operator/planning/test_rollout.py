"""Updates that take too long, and reverts: what serves goes on, and nothing is cut again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shardedmodel_operator.planning import labels
from shardedmodel_runtime.report import ShardProgress
from tests.builders.operator import LAYOUT_HASH, ModelBuilder, failure, group_report, summary
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import (
    change,
    event_reasons,
    message,
    ready,
    reason,
    sharded,
)

OTHER_LAYOUT = "f" * 20
LIMIT = 1800
"""The default of ``progressDeadlineSeconds``."""


def target(cluster: SimulatedCluster) -> str:
    """The StatefulSet of the revision that is asked for."""
    wanted = cluster.model.status.update_revision
    (name,) = (
        s["metadata"]["name"]
        for s in cluster.of_kind("StatefulSet")
        if s["metadata"]["labels"][labels.REVISION] == wanted
    )
    return str(name)


def start(cluster: SimulatedCluster) -> None:
    name = target(cluster)
    cluster.run_ranks(name)
    cluster.reports[name] = group_report(
        name, cluster.objects["StatefulSet", name]["spec"]["replicas"]
    )
    cluster.settle()


# Deadlines


def test_an_update_without_progress_stalls_and_the_old_revision_serves_on() -> None:
    cluster = ready()
    old = cluster.model.status.current_revision
    change(cluster, image="runtime:2")
    cluster.settle()
    cluster.rank_pod(target(cluster), 0).unschedulable("0/3 nodes are available")
    cluster.rank_pod(target(cluster), 1).unschedulable("0/3 nodes are available")
    cluster.settle()
    assert cluster.model.status.holds("Reconciling")
    cluster.pass_time(LIMIT)
    cluster.settle()
    status = cluster.model.status
    assert (status.holds("Stalled"), status.holds("Available")) == (True, True)
    assert (status.phase, status.current_revision) == ("Degraded", old)
    assert reason(cluster) == "Unschedulable"
    assert message(cluster).endswith(
        "no progress since 2026-11-22T20:00:00Z, which is longer than "
        "spec.rollout.progressDeadlineSeconds (1800) allows"
    )


def test_a_start_that_only_hangs_is_named_by_the_deadline() -> None:
    cluster = sharded()
    name = target(cluster)
    for ordinal in range(2):
        cluster.rank_pod(name, ordinal).waiting("ContainerCreating")
    cluster.settle()
    cluster.pass_time(LIMIT)
    cluster.settle()
    assert reason(cluster) == "ProgressDeadlineExceeded"
    assert message(cluster).startswith("0 of 2 ranks have started; no progress since")
    assert event_reasons(cluster).count("ProgressDeadlineExceeded") == 1


def test_a_stalled_update_goes_on_when_there_is_progress() -> None:
    cluster = ready()
    change(cluster, image="runtime:2")
    cluster.settle()
    cluster.pass_time(LIMIT)
    cluster.settle()
    assert cluster.model.status.holds("Stalled")
    start(cluster)
    assert cluster.model.status.holds("Ready")
    assert cluster.model.status.progress_at is None


def test_bytes_that_move_are_progress() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    pod = cluster.job_pod().running().body["metadata"]["name"]
    for done in range(5):
        cluster.pass_time(LIMIT - 1)
        cluster.progress[pod] = ShardProgress(
            objects=1, bytes=10, bytes_done=done + 1, bytes_per_second=1, seconds=1
        )
        cluster.settle()
    assert cluster.model.status.holds("Reconciling")
    cluster.pass_time(LIMIT)
    cluster.settle()
    assert cluster.model.status.holds("Stalled")


def fail_after(cluster: SimulatedCluster, attempt: int, done: int) -> None:
    """Let an attempt write so many bytes of 10, and fail of what may pass."""
    pod = cluster.job_pod(attempt).running().body["metadata"]["name"]
    cluster.progress[pod] = ShardProgress(
        objects=1, bytes=10, bytes_done=done, bytes_per_second=1, seconds=1
    )
    cluster.settle()
    cluster.pass_time(LIMIT / 3)
    cluster.end_job("Failed", 5, failure("Unavailable", retryable=True), attempt)
    cluster.settle()
    cluster.pass_time(cluster.settings.backoff_max_seconds)
    cluster.settle()


def test_a_job_that_always_fails_half_way_is_no_progress_but_is_tried_on() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    for attempt in range(1, 6):
        fail_after(cluster, attempt, done=5)
    assert cluster.model.status.holds("Stalled")
    assert "no progress since" in message(cluster)
    assert len(cluster.names("Job")) == 2


def test_a_job_that_comes_further_at_each_attempt_makes_progress() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    for attempt in range(1, 6):
        fail_after(cluster, attempt, done=attempt)
    assert cluster.model.status.holds("Reconciling")


def test_the_planner_looks_again_at_the_deadline() -> None:
    cluster = sharded(ModelBuilder().with_spec(rollout={"progressDeadlineSeconds": 20}))
    for ordinal in range(2):
        cluster.rank_pod(target(cluster), ordinal).waiting("ContainerCreating")
    assert cluster.settle().requeue_after == 20


def test_a_suspended_model_has_no_deadline() -> None:
    cluster = SimulatedCluster(ModelBuilder().with_spec(suspend=True))
    cluster.settle()
    cluster.pass_time(LIMIT)
    cluster.settle()
    assert cluster.model.status.condition("Stalled") is None


# Reverts


def ask(cluster: SimulatedCluster, tensor: int) -> None:
    cluster.builder.with_spec(parallelism={"tensor": tensor})
    cluster.builder.at_generation(cluster.model.generation + 1)
    cluster.settle()


def while_sharding(cluster: SimulatedCluster) -> None:
    cluster.job_pod(request=cluster.builder.request).running()
    cluster.settle()


def when_sharding_failed(cluster: SimulatedCluster) -> None:
    cluster.end_job("Failed", 2, failure("InvalidSharding"), request=cluster.builder.request)
    cluster.settle()


def while_loading(cluster: SimulatedCluster) -> None:
    told = summary(layout_hash=OTHER_LAYOUT).to_json()
    cluster.end_job("Complete", 0, told, request=cluster.builder.request)
    cluster.settle()
    cluster.run_ranks(target(cluster), ready=False)
    cluster.settle()


def while_draining(cluster: SimulatedCluster) -> None:
    while_loading(cluster)
    pods = {k: v for k, v in cluster.objects.items() if k[0] == "Pod" and "-shard-" not in k[1]}
    start(cluster)
    for key, pod in pods.items():
        if key not in cluster.objects:
            pod["metadata"]["deletionTimestamp"] = "2026-11-22T20:00:30Z"
            cluster.objects[key] = pod
    cluster.settle()


def gone(cluster: SimulatedCluster) -> None:
    """Let pods that are on their way out end."""
    cluster.objects = {
        k: v for k, v in cluster.objects.items() if "deletionTimestamp" not in v["metadata"]
    }
    cluster.settle()


@pytest.mark.parametrize(
    "moment", [while_sharding, when_sharding_failed, while_loading, while_draining]
)
def test_a_revert_returns_to_the_old_revision_without_cutting_again(
    moment: Callable[[SimulatedCluster], None],
) -> None:
    cluster = ready()
    before, old_request = cluster.model.status, cluster.builder.request
    ask(cluster, 4)
    moment(cluster)
    assert cluster.model.status.holds("Available")
    made = len([e for e in event_reasons(cluster) if e == "ShardingStarted"])
    ask(cluster, 2)
    assert cluster.model.status.holds("Available")
    gone(cluster)
    if not cluster.model.status.holds("Ready"):
        start(cluster)
    status = cluster.model.status
    assert status.holds("Ready")
    assert status.current_revision == status.update_revision == before.current_revision
    assert status.sharding is not None
    assert status.sharding.layout_hash == LAYOUT_HASH
    assert {j["metadata"]["labels"][labels.REQUEST] for j in cluster.of_kind("Job")} >= {
        old_request
    }
    assert event_reasons(cluster).count("ShardingStarted") <= made + 1
    assert [
        j["metadata"]["labels"][labels.ATTEMPT]
        for j in cluster.of_kind("Job")
        if j["metadata"]["labels"][labels.REQUEST] == old_request
    ] == ["1"]


def test_a_revert_whose_job_is_gone_finds_the_layout_by_a_new_one() -> None:
    cluster = ready(ModelBuilder().with_spec(rollout={"revisionHistoryLimit": 0}))
    before = cluster.model.status.current_revision
    ask(cluster, 4)
    assert len(cluster.names("Job")) == 1
    ask(cluster, 2)
    cluster.end_job("Complete", 0, summary(reused=True).to_json())
    cluster.settle()
    assert cluster.model.status.holds("Ready")
    assert cluster.model.status.current_revision == before


def test_the_history_is_bounded_and_keeps_the_newest() -> None:
    cluster = ready(ModelBuilder().with_spec(rollout={"revisionHistoryLimit": 2}))
    requests = [cluster.builder.request]
    for tensor in (4, 8, 16, 32):
        cluster.pass_time(60)
        ask(cluster, tensor)
        requests.append(cluster.builder.request)
        told = summary(layout_hash=cluster.builder.request).to_json()
        cluster.end_job("Complete", 0, told, request=cluster.builder.request)
        cluster.settle()
    kept = {j["metadata"]["labels"][labels.REQUEST] for j in cluster.of_kind("Job")}
    assert kept == set(requests[-3:])


def test_failed_jobs_of_former_requests_are_not_kept() -> None:
    cluster = ready()
    ask(cluster, 4)
    when_sharding_failed(cluster)
    ask(cluster, 8)
    assert len(cluster.names("Job")) == 2
