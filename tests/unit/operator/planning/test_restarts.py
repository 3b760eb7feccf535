"""Groups that cannot form are made anew as a whole: with back-off and within a budget."""

from __future__ import annotations

import pytest

from shardedmodel_operator.api.status import GroupStatus
from shardedmodel_operator.planning.objects import parse_time
from tests.builders.operator import ModelBuilder, failure, group_report, stamp
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import event_reasons, message, ready, reason, sharded

BROKEN = failure("Unavailable", "the store answers 503", retryable=True)
FORM_SECONDS = 121
"""What a group of 50 MB a rank is given: its bytes at 50 MB/s, and 120 s."""


def group(cluster: SimulatedCluster) -> str:
    (name,) = cluster.names("StatefulSet")
    return name


def uid(cluster: SimulatedCluster) -> str:
    return str(cluster.objects["StatefulSet", group(cluster)]["metadata"]["uid"])


def told(cluster: SimulatedCluster) -> GroupStatus:
    (found,) = cluster.model.status.groups
    return found


def run(cluster: SimulatedCluster) -> None:
    cluster.run_ranks(group(cluster), ready=False)
    cluster.settle()


def loop(cluster: SimulatedCluster, message: str = BROKEN, after: float = 20) -> None:
    """Let rank 1 end again some seconds after the group lost readiness."""
    cluster.pass_time(after)
    pod = cluster.rank_pod(group(cluster), 1).running()
    pod.waiting("CrashLoopBackOff").restarted(3)
    pod.ended(5, message, at=cluster.now, state="lastState")
    cluster.settle()


def delay(cluster: SimulatedCluster) -> float:
    """Seconds until the restart that is scheduled."""
    due = parse_time(told(cluster).restart_at)
    assert due is not None
    return (due - cluster.now).total_seconds()


def make_anew(cluster: SimulatedCluster) -> None:
    """Let the restart that is scheduled become due, and the pods of the new group run."""
    cluster.pass_time(delay(cluster))
    cluster.settle()
    run(cluster)


def test_a_rank_that_ends_once_is_left_to_the_kubelet() -> None:
    cluster = ready()
    before = uid(cluster)
    cluster.pass_time(3600)
    pod = cluster.rank_pod(group(cluster), 1).running().restarted(1)
    pod.ended(5, BROKEN, at=cluster.now, state="lastState")
    cluster.settle()
    cluster.pass_time(5)
    cluster.run_ranks(group(cluster))
    cluster.settle()
    assert (uid(cluster), told(cluster).restarts) == (before, 0)


def test_a_rank_that_ends_again_gets_its_group_made_anew_after_the_delay() -> None:
    cluster = sharded()
    run(cluster)
    before = uid(cluster)
    loop(cluster)
    assert delay(cluster) == 10
    assert uid(cluster) == before
    assert reason(cluster) == "Unavailable"
    assert "group 0 is made anew at 20:00:30" in message(cluster).replace("2026-11-22T", "")
    assert "(restart 1 of 5 in 3600 s)" in message(cluster)
    assert "GroupRestarting" in event_reasons(cluster)
    cluster.pass_time(10)
    cluster.settle()
    assert uid(cluster) != before
    assert cluster.observed().pods_of(cluster.observed().stateful_sets[0].meta) == []


def test_the_new_group_waits_until_the_pods_of_the_former_have_gone() -> None:
    cluster = sharded()
    run(cluster)
    loop(cluster)
    leaving = cluster.objects["Pod", f"{group(cluster)}-0"]
    cluster.pass_time(10)
    cluster.step()
    leaving["metadata"]["deletionTimestamp"] = stamp(cluster.now)
    cluster.objects["Pod", leaving["metadata"]["name"]] = leaving
    cluster.settle()
    assert cluster.names("StatefulSet") == []
    del cluster.objects["Pod", leaving["metadata"]["name"]]
    cluster.settle()
    assert len(cluster.names("StatefulSet")) == 1
    assert told(cluster).restarts == 1


def test_delays_double_up_to_the_longest() -> None:
    limits = {"maxRestarts": 6, "baseDelaySeconds": 10, "maxDelaySeconds": 100}
    cluster = sharded(ModelBuilder().with_spec(restart=limits))
    run(cluster)
    delays = []
    for _ in range(6):
        loop(cluster)
        delays.append(delay(cluster))
        make_anew(cluster)
    assert delays == [10, 20, 40, 80, 100, 100]


def exhausted(limit: int = 2) -> SimulatedCluster:
    """A model whose group has used up its restarts and fails again."""
    cluster = sharded(ModelBuilder().with_spec(restart={"maxRestarts": limit}))
    run(cluster)
    for _ in range(limit):
        loop(cluster)
        make_anew(cluster)
    loop(cluster)
    return cluster


def test_a_used_up_budget_stalls_and_keeps_the_pods() -> None:
    cluster = exhausted()
    before = uid(cluster)
    assert cluster.model.status.holds("Stalled")
    spent = "made anew 2 times, which is all that spec.restart.maxRestarts (2) allows in 3600 s"
    assert spent in message(cluster)
    assert "raise it to go on" in message(cluster)
    assert reason(cluster) == "Unavailable"
    cluster.pass_time(86_400)
    cluster.settle()
    assert (uid(cluster), told(cluster).restarts) == (before, 2)
    assert len(cluster.observed().pods) == 3


def test_a_stalled_group_stays_stalled_while_the_kubelet_tries_on() -> None:
    cluster = exhausted()
    pod = cluster.rank_pod(group(cluster), 1).running().restarted(4)
    pod.ended(5, BROKEN, at=cluster.now, state="lastState")
    cluster.settle()
    assert cluster.model.status.holds("Stalled")


def test_a_group_that_heals_by_itself_is_ready_and_its_budget_renews_with_the_window() -> None:
    cluster = exhausted()
    cluster.run_ranks(group(cluster))
    cluster.reports[group(cluster)] = group_report(group(cluster))
    cluster.settle()
    assert cluster.model.status.holds("Ready")
    assert told(cluster).restarts == 2
    cluster.pass_time(3600)
    cluster.settle()
    assert told(cluster).restarts == 0


def test_a_raised_budget_goes_on() -> None:
    cluster = exhausted()
    cluster.builder.with_spec(restart={"maxRestarts": 3}).at_generation(2)
    cluster.settle()
    assert cluster.model.status.holds("Reconciling")
    assert told(cluster).restarts == 3


def test_a_group_that_hangs_is_made_anew_at_its_deadline() -> None:
    cluster = sharded()
    run(cluster)
    before = uid(cluster)
    assert cluster.settle().requeue_after == cluster.settings.poll_seconds
    cluster.pass_time(FORM_SECONDS)
    cluster.settle()
    assert reason(cluster) == "GroupNotFormed"
    assert f"not ready: {group(cluster)}-0, {group(cluster)}-1" in message(cluster)
    make_anew(cluster)
    assert uid(cluster) != before


def test_pods_that_are_only_pending_are_never_restarted() -> None:
    cluster = sharded()
    run(cluster)
    cluster.rank_pod(group(cluster), 1).unschedulable("0/3 nodes are available")
    before = uid(cluster)
    cluster.settle()
    cluster.pass_time(86_400)
    cluster.settle()
    assert (uid(cluster), reason(cluster)) == (before, "Unschedulable")
    assert told(cluster).restarts == 0


@pytest.mark.parametrize("message", [failure("ChecksumMismatch"), failure("LayoutNotFound")])
def test_what_a_new_start_cannot_heal_is_not_restarted(message: str) -> None:
    cluster = sharded()
    run(cluster)
    loop(cluster, message)
    assert cluster.model.status.holds("Stalled")
    assert told(cluster).restarts == 0


def test_a_scheduled_restart_is_called_off_when_the_group_forms() -> None:
    cluster = sharded()
    run(cluster)
    before = uid(cluster)
    loop(cluster)
    cluster.run_ranks(group(cluster))
    cluster.settle()
    cluster.pass_time(3600)
    cluster.settle()
    assert (uid(cluster), told(cluster).restarts) == (before, 0)


def test_an_operator_that_died_after_the_deletion_does_not_restart_twice() -> None:
    cluster = sharded()
    run(cluster)
    loop(cluster)
    scheduled = cluster.builder.body["status"]
    cluster.pass_time(10)
    cluster.step()
    cluster.builder.body["status"] = scheduled
    cluster.settle()
    after = uid(cluster)
    run(cluster)
    assert (uid(cluster), told(cluster).restarts) == (after, 1)
    assert told(cluster).restart_at is None


def test_one_broken_group_leaves_the_others_alone() -> None:
    cluster = ready(ModelBuilder().with_spec(replicas=2))
    whole, broken = cluster.names("StatefulSet")
    kept = cluster.objects["StatefulSet", whole]["metadata"]["uid"]
    cluster.rank_pod(broken, 1).running()
    cluster.settle()
    cluster.pass_time(20)
    pod = cluster.rank_pod(broken, 1).running().waiting("CrashLoopBackOff")
    pod.ended(5, BROKEN, at=cluster.now, state="lastState")
    cluster.settle()
    cluster.pass_time(10)
    cluster.settle()
    assert cluster.objects["StatefulSet", whole]["metadata"]["uid"] == kept
    assert [g.restarts for g in cluster.model.status.groups] == [0, 1]
    assert cluster.model.status.holds("Available")


def test_a_spec_that_is_not_valid_restarts_nothing() -> None:
    cluster = sharded()
    run(cluster)
    loop(cluster)
    before = uid(cluster)
    cluster.builder.with_parallelism(tensor=0).at_generation(2)
    cluster.pass_time(3600)
    cluster.settle()
    assert uid(cluster) == before
    assert told(cluster).restarts == 1
