"""Pods that a controller does not create: told when they are missed for long, and not before."""

from __future__ import annotations

import pytest

from shardedmodel_operator.planning.missing import short_of_pods
from tests.builders.operator import ModelBuilder, failure, group_report, stamp, summary
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import event_reasons, message, ready, reason, sharded

ONE_POD = {"parallelism": {"tensor": 1}}
AN_AGE = 86_400


def lose(cluster: SimulatedCluster, pod: str) -> None:
    del cluster.objects["Pod", pod]
    cluster.reports.clear()


def test_a_pod_that_was_just_evicted_from_an_old_group_is_not_called_missing() -> None:
    cluster = ready(ModelBuilder().with_spec(**ONE_POD))
    cluster.pass_time(AN_AGE)
    lose(cluster, f"{cluster.names('StatefulSet')[0]}-0")
    cluster.settle()
    assert "PodsNotCreated" not in event_reasons(cluster)
    assert reason(cluster) == "Starting"


def test_an_old_group_that_was_just_resumed_is_not_called_missing() -> None:
    cluster = ready(ModelBuilder().with_spec(**ONE_POD))
    cluster.pass_time(AN_AGE)
    cluster.builder.with_spec(suspend=True).at_generation(2)
    cluster.settle()
    cluster.pass_time(AN_AGE)
    cluster.builder.with_spec(suspend=False).at_generation(3)
    cluster.settle()
    assert reason(cluster) == "Starting"
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    cluster.settle()
    assert reason(cluster) == "PodsNotCreated"


def test_a_quota_that_lets_some_pods_through_is_named() -> None:
    cluster = sharded()
    name = cluster.names("StatefulSet")[0]
    cluster.rank_pod(name, 0).running()
    cluster.settle()
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    cluster.settle()
    assert reason(cluster) == "PodsNotCreated"
    assert message(cluster).startswith(f"StatefulSet {name} has 1 of 2 pods: a quota or")


QUOTA = (
    'create Pod {0}-1 in StatefulSet {0} failed error: pods "{0}-1" is forbidden: exceeded quota: '
    "team, requested: pods=1, used: pods=1, limited: pods=1"
)
SECURITY = (
    'create Pod {0}-1 in StatefulSet {0} failed error: pods "{0}-1" is forbidden: violates '
    'PodSecurity "restricted:latest": host namespaces (hostNetwork=true)'
)
WEBHOOK = (
    'create Pod {0}-1 in StatefulSet {0} failed error: admission webhook "policy.example" denied '
    "the request: no label owner"
)


@pytest.mark.parametrize(
    ("told", "expected", "remedy"),
    [
        (QUOTA, "QuotaExceeded", "raise the quota, or ask for less in spec"),
        (SECURITY, "PodSecurityViolation", "adapt spec.workers.template, or the namespace's"),
        (WEBHOOK, "PodsRefused", "adapt spec.workers.template, or the policy"),
    ],
)
def test_what_refuses_pods_is_told_with_the_servers_sentence(
    told: str, expected: str, remedy: str
) -> None:
    cluster = sharded()
    name = cluster.names("StatefulSet")[0]
    cluster.rank_pod(name, 0).running()
    cluster.refusals[name] = told.format(name)
    cluster.settle()
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    cluster.settle()
    assert reason(cluster) == expected
    assert message(cluster).startswith(f"StatefulSet {name} has 1 of 2 pods: {told.format(name)}")
    assert f"{remedy}" in message(cluster)
    assert event_reasons(cluster)[-1] == expected


def test_a_job_whose_pod_a_quota_refuses_says_so() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    (name,) = cluster.names("Job")
    cluster.refusals[name] = f'Error creating: pods "{name}-x" is forbidden: exceeded quota: team'
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    cluster.settle()
    assert reason(cluster) == "QuotaExceeded"
    assert f'pods "{name}-x" is forbidden: exceeded quota: team' in message(cluster)


def test_only_what_has_lacked_pods_for_long_is_worth_asking_about() -> None:
    cluster = sharded()
    names = cluster.names("StatefulSet")
    cluster.settle()
    assert short(cluster) == []
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    assert short(cluster) == names


def short(cluster: SimulatedCluster) -> list[str]:
    model, seen = cluster.model, cluster.observed()
    found = short_of_pods(model.uid, model.status, seen, cluster.settings, cluster.now)
    return [meta.name for meta in found]


def test_missing_pods_come_before_what_the_others_suffer_from_it() -> None:
    cluster = sharded()
    name = cluster.names("StatefulSet")[0]
    cluster.settle()
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    gave_up = failure("GroupError", "rank 1 did not join", retryable=True)
    cluster.rank_pod(name, 0).running().ended(7, gave_up, at=cluster.now, state="lastState")
    cluster.settle()
    assert reason(cluster) == "PodsNotCreated"


def test_the_planner_looks_again_when_missing_pods_are_due() -> None:
    cluster = sharded()
    cluster.rank_pod(cluster.names("StatefulSet")[0], 0).waiting("ContainerCreating")
    cluster.settle()
    cluster.pass_time(10)
    assert cluster.settle().requeue_after == cluster.settings.missing_pods_seconds - 10


def test_pods_that_came_are_missed_anew_when_they_go() -> None:
    cluster = ready()
    name = cluster.names("StatefulSet")[0]
    for _ in range(3):
        cluster.pass_time(cluster.settings.missing_pods_seconds - 1)
        lose(cluster, f"{name}-1")
        cluster.settle()
        cluster.pass_time(cluster.settings.missing_pods_seconds - 1)
        cluster.run_ranks(name)
        cluster.reports[name] = group_report(name)
        cluster.settle()
    assert "PodsNotCreated" not in event_reasons(cluster)


def test_a_pod_on_its_way_out_is_not_missing_until_it_should_have_gone() -> None:
    cluster = ready()
    name = cluster.names("StatefulSet")[0]
    pod = cluster.objects["Pod", f"{name}-1"]
    pod["metadata"]["deletionTimestamp"] = stamp(cluster.now)
    cluster.settle()
    assert reason(cluster) == "Starting"
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    cluster.settle()
    assert reason(cluster) == "PodNotRemoved"
    assert f"pod {name}-1 (rank 1) on node-a" in message(cluster)


def test_a_job_whose_pod_went_is_given_its_time_again() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    pod = cluster.job_pod().running()
    cluster.settle()
    cluster.pass_time(AN_AGE)
    lose(cluster, pod.body["metadata"]["name"])
    cluster.settle()
    assert "PodsNotCreated" not in event_reasons(cluster)
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    cluster.settle()
    assert reason(cluster) == "PodsNotCreated"


@pytest.mark.parametrize("lost", [True, False])
def test_when_pods_were_missed_is_kept_in_status_alone(lost: bool) -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Complete", 0, summary().to_json())
    cluster.settle()
    if lost:
        del cluster.builder.body["status"]
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    cluster.settle()
    assert (reason(cluster) == "PodsNotCreated") == (not lost)
