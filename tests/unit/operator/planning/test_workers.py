"""A pre-shard Job of several pods is told as one."""

from __future__ import annotations

from shardedmodel_runtime.report import ShardProgress
from tests.builders.operator import ModelBuilder, PodBuilder, failure, seconds, summary
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import message, reason


def sharing(workers: int = 2) -> tuple[SimulatedCluster, list[PodBuilder]]:
    """A model whose Job has a pod for each worker, all running."""
    cluster = SimulatedCluster(ModelBuilder().with_spec(sharding={"workers": workers}))
    cluster.settle()
    pods = [cluster.job_pod(worker=worker).running() for worker in range(workers)]
    return cluster, pods


def tell(cluster: SimulatedCluster, pod: PodBuilder, done: int, rate: float = 10) -> None:
    cluster.progress[pod.body["metadata"]["name"]] = ShardProgress(
        objects=2, bytes=100, bytes_done=done, bytes_per_second=rate, seconds=4
    )


def bytes_done(cluster: SimulatedCluster) -> tuple[int, int]:
    cluster.settle()
    told = cluster.model.status.sharding
    assert told is not None
    return told.bytes_done, told.bytes


def test_progress_is_of_all_workers_together() -> None:
    cluster, pods = sharing()
    tell(cluster, pods[0], 40)
    tell(cluster, pods[1], 60)
    assert bytes_done(cluster) == (100, 200)
    told = cluster.model.status.sharding
    assert told is not None
    assert (told.objects, told.bytes_per_second, told.remaining_seconds) == (4, 20, 5)


def test_progress_does_not_fall_when_a_worker_is_done() -> None:
    cluster, pods = sharing()
    tell(cluster, pods[0], 100)
    tell(cluster, pods[1], 60)
    assert bytes_done(cluster) == (160, 200)
    cluster.progress.clear()
    tell(cluster, pods[1], 70)
    assert bytes_done(cluster) == (160, 200)


def test_a_new_attempt_begins_to_count_anew() -> None:
    cluster, pods = sharing(1)
    tell(cluster, pods[0], 90)
    assert bytes_done(cluster) == (90, 100)
    cluster.end_job("Failed", 5, failure("Unavailable", retryable=True))
    cluster.settle()
    cluster.pass_time(60)
    cluster.settle()
    tell(cluster, cluster.job_pod(attempt=2).running(), 10)
    assert bytes_done(cluster) == (10, 100)


def test_the_layout_is_known_from_the_worker_that_finished_it() -> None:
    cluster, pods = sharing()
    part = summary(complete=False, worker=0, source_bytes_read=60, seconds=3, peak_memory_bytes=9)
    pods[0].ended(0, part.to_json())
    cluster.settle()
    assert not cluster.model.status.holds("Sharded")
    whole = summary(worker=1, source_bytes_read=40, seconds=5, peak_memory_bytes=7)
    pods[1].ended(0, whole.to_json())
    cluster.settle()
    told = cluster.model.status.sharding
    assert told is not None
    assert cluster.model.status.holds("Sharded")
    assert (told.source_bytes_read, told.seconds, told.peak_memory_bytes) == (100, 5, 9)


def test_the_worker_that_failed_is_told_and_not_those_that_were_ended_with_it() -> None:
    cluster, pods = sharing()
    ended = failure("Terminated", "asked to end", retryable=True)
    pods[0].ended(143, ended, at=cluster.now)
    broken = failure("Unavailable", "the store answers 503", retryable=True)
    pods[1].ended(5, broken, at=cluster.now + seconds(1))
    cluster.settle()
    assert reason(cluster) == "Unavailable"
    assert pods[1].body["metadata"]["name"] in message(cluster)


def test_workers_that_a_quota_keeps_out_are_missed() -> None:
    cluster, pods = sharing()
    del cluster.objects["Pod", pods[1].body["metadata"]["name"]]
    cluster.settle()
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    cluster.settle()
    assert reason(cluster) == "PodsNotCreated"
    assert "has 1 of 2 pods" in message(cluster)
