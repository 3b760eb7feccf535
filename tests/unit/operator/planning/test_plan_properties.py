"""Whatever happens to the cluster, in whatever order, the planner comes to rest and heals."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from shardedmodel_operator.planning.objects import Job
from tests.builders.operator import failure, group_report, summary
from tests.simulated_cluster import SimulatedCluster

Deed = Callable[[SimulatedCluster], None]


def _generation(cluster: SimulatedCluster) -> None:
    cluster.builder.body["metadata"]["generation"] += 1


def _set(**fields: object) -> Deed:
    def deed(cluster: SimulatedCluster) -> None:
        cluster.builder.with_spec(**fields)
        _generation(cluster)

    return deed


def _image(image: str) -> Deed:
    def deed(cluster: SimulatedCluster) -> None:
        cluster.builder.with_workers(image=image)
        _generation(cluster)

    return deed


def _unfinished(cluster: SimulatedCluster) -> Job | None:
    jobs = [job for job in cluster.observed().jobs if not job.finished]
    return max(jobs, key=lambda job: job.attempt, default=None)


def _job_succeeds(cluster: SimulatedCluster) -> None:
    if job := _unfinished(cluster):
        # As in truth: other requests make other layouts.
        told = summary(layout_hash=job.request)
        cluster.end_job("Complete", 0, told.to_json(), job.attempt, job.request)


def _job_fails(cluster: SimulatedCluster) -> None:
    if job := _unfinished(cluster):
        cluster.end_job("Failed", 4, failure("NotFound"), job.attempt, job.request)


def _job_waits(cluster: SimulatedCluster) -> None:
    if job := _unfinished(cluster):
        pod = cluster.job_pod(job.attempt, request=job.request)
        pod.waiting("CreateContainerConfigError", 'secret "x" not found')


def _ranks_ready(cluster: SimulatedCluster) -> None:
    for name in cluster.names("StatefulSet"):
        cluster.run_ranks(name)
        cluster.reports[name] = group_report(name)


def _rank_fails(cluster: SimulatedCluster) -> None:
    for name in cluster.names("StatefulSet"):
        pod = cluster.rank_pod(name, 0).running().restarted(1)
        pod.ended(6, failure("ChecksumMismatch"), at=cluster.now, state="lastState")


def _rank_loops(cluster: SimulatedCluster) -> None:
    for name in cluster.names("StatefulSet"):
        pod = cluster.rank_pod(name, 0).running().waiting("CrashLoopBackOff").restarted(3)
        pod.ended(5, failure("Unavailable", retryable=True), at=cluster.now, state="lastState")


def _ranks_hang(cluster: SimulatedCluster) -> None:
    for name in cluster.names("StatefulSet"):
        cluster.run_ranks(name, ready=False)


def _pod_leaves(cluster: SimulatedCluster) -> None:
    for name in cluster.names("StatefulSet"):
        cluster.rank_pod(name, 0).running().deleting()


def _layout_lost(cluster: SimulatedCluster) -> None:
    for name in cluster.names("StatefulSet"):
        pod = cluster.rank_pod(name, 1).running()
        pod.ended(6, failure("LayoutNotFound"), at=cluster.now, state="lastState")


def _pods_lost(cluster: SimulatedCluster) -> None:
    cluster.objects = {k: v for k, v in cluster.objects.items() if k[0] != "Pod"}


def _jobs_lost(cluster: SimulatedCluster) -> None:
    cluster.objects = {k: v for k, v in cluster.objects.items() if k[0] != "Job"}


def _status_lost(cluster: SimulatedCluster) -> None:
    cluster.builder.body.pop("status", None)


def _reports_lost(cluster: SimulatedCluster) -> None:
    cluster.reports.clear()


def _wait(cluster: SimulatedCluster) -> None:
    cluster.pass_time(400)


DEEDS: list[Deed] = [
    _set(replicas=0),
    _set(replicas=1),
    _set(replicas=2),
    _set(suspend=True),
    _set(suspend=False),
    _set(rollout={"strategy": "Recreate"}),
    _set(rollout={"strategy": "Surge"}),
    _set(rollout={"strategy": "Surge", "progressDeadlineSeconds": 60, "revisionHistoryLimit": 0}),
    _set(restart={"maxRestarts": 1}),
    _set(parallelism={"tensor": 4}),
    _set(parallelism={"tensor": 2}),
    _set(parallelism={"tensor": 0}),
    _image("runtime:2"),
    _image(""),
    _job_succeeds,
    _job_succeeds,
    _job_fails,
    _job_waits,
    _ranks_ready,
    _ranks_ready,
    _rank_fails,
    _rank_loops,
    _ranks_hang,
    _pod_leaves,
    _layout_lost,
    _pods_lost,
    _jobs_lost,
    _status_lost,
    _reports_lost,
    _wait,
]

BREAKING = (_pods_lost, _rank_fails, _rank_loops, _ranks_hang, _pod_leaves, _layout_lost)
"""What takes readiness away by itself."""

histories = st.lists(st.sampled_from(DEEDS), max_size=12)


@settings(max_examples=60)
@given(histories)
def test_after_any_history_the_planner_comes_to_rest(history: list[Deed]) -> None:
    cluster = SimulatedCluster()
    for deed in history:
        deed(cluster)
        cluster.settle()
        at_rest = cluster.step()
        assert (at_rest.apply, at_rest.delete, at_rest.events) == ((), (), ())


@settings(max_examples=40)
@given(histories)
def test_after_any_history_a_good_spec_and_a_good_cluster_lead_to_ready(
    history: list[Deed],
) -> None:
    cluster = SimulatedCluster()
    for deed in history:
        deed(cluster)
        cluster.step()
    cluster.builder.with_spec(
        replicas=1, suspend=False, parallelism={"tensor": 2}, rollout={"strategy": "Surge"}
    )
    _generation(cluster)
    for _ in range(3):
        _wait(cluster)
        cluster.settle()
        _job_succeeds(cluster)
        cluster.settle()
        _ranks_ready(cluster)
        cluster.settle()
    status = cluster.model.status
    assert status.holds("Ready")
    assert len(cluster.names("StatefulSet")) == 1


@settings(max_examples=40)
@given(st.lists(st.sampled_from([d for d in DEEDS if d not in BREAKING]), max_size=12))
def test_pods_that_serve_are_never_taken_away_by_a_surge(history: list[Deed]) -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    _job_succeeds(cluster)
    cluster.settle()
    _ranks_ready(cluster)
    cluster.settle()
    for deed in history:
        deed(cluster)
        before = cluster.model
        serving = before.status.holds("Available")
        cluster.settle()
        spec = before.spec
        if spec and spec.replicas and not spec.suspend and spec.rollout.strategy == "Surge":
            assert cluster.model.status.holds("Available") >= serving
