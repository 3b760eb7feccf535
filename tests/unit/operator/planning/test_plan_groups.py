from __future__ import annotations

import pytest

from shardedmodel_operator.planning import labels
from tests.builders.operator import (
    ModelBuilder,
    failure,
    group_report,
    seconds,
    summary,
)
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import (
    change,
    event_reasons,
    message,
    ready,
    reason,
    sharded,
)

# Groups


def test_a_model_whose_ranks_are_ready_is_ready() -> None:
    cluster = ready()
    status = cluster.model.status
    assert status.phase == "Ready"
    assert [c.status for c in status.conditions] == ["True"] * 5
    assert status.current_revision == status.update_revision != ""
    assert (status.replicas, status.ready_replicas) == (1, 1)


def test_the_events_of_a_first_start_tell_its_story() -> None:
    assert event_reasons(ready()) == [
        "ShardingStarted",
        "Sharded",
        "GroupStarted",
        "Loaded",
        "RevisionSwitched",
        "Ready",
    ]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("joining", ("Loading", "Loading")),
        ("loading", ("Loading", "Loading")),
        ("loaded", ("Loading", "FormingGroup")),
        ("ready", ("Loading", "FormingGroup")),
    ],
)
def test_what_ranks_do_is_told_while_they_do_it(state: str, expected: tuple[str, str]) -> None:
    cluster = sharded()
    name = cluster.names("StatefulSet")[0]
    cluster.run_ranks(name, ready=False)
    cluster.reports[name] = group_report(name, state=state)  # type: ignore[arg-type]
    decided = cluster.settle()
    assert (cluster.model.status.phase, reason(cluster)) == expected
    assert decided.requeue_after == cluster.settings.poll_seconds


def test_pods_that_do_not_run_yet_are_counted() -> None:
    cluster = sharded()
    name = cluster.names("StatefulSet")[0]
    cluster.rank_pod(name, 0).running()
    cluster.rank_pod(name, 1).waiting("ContainerCreating")
    cluster.settle()
    assert (cluster.model.status.phase, reason(cluster)) == ("Starting", "Starting")
    assert message(cluster) == "1 of 2 ranks have started"


def test_a_group_without_pods_is_called_out_after_a_while() -> None:
    cluster = sharded()
    assert cluster.settle().requeue_after == cluster.settings.missing_pods_seconds
    cluster.pass_time(60)
    cluster.settle()
    assert reason(cluster) == "PodsNotCreated"


def test_readiness_comes_from_the_pods_when_no_report_can_be_pulled() -> None:
    cluster = sharded()
    cluster.run_ranks(cluster.names("StatefulSet")[0])
    decided = cluster.settle()
    assert cluster.model.status.holds("Ready")
    assert cluster.model.status.holds("GroupFormed")
    assert decided.requeue_after == cluster.settings.poll_seconds


def test_a_rank_that_came_back_is_looked_at_until_its_report_says_so_as_well() -> None:
    cluster = ready()
    name = cluster.names("StatefulSet")[0]
    whole = cluster.reports[name]
    back = whole.ranks[1].model_copy(update={"state": "lost", "message": "no sign of life"})
    cluster.reports[name] = whole.model_copy(update={"ranks": [whole.ranks[0], back]})
    assert cluster.settle().requeue_after == cluster.settings.poll_seconds
    cluster.reports[name] = whole
    assert cluster.settle().requeue_after is None
    assert [rank.message for rank in cluster.model.status.ranks] == ["", ""]


def test_load_figures_stay_when_reports_can_no_longer_be_pulled() -> None:
    cluster = ready()
    before = cluster.model.status
    cluster.reports.clear()
    decided = cluster.settle()
    assert decided.status == before
    assert decided.requeue_after is None


def test_a_second_replica_gets_a_group_of_its_own() -> None:
    cluster = ready()
    cluster.builder.with_spec(replicas=2).at_generation(2)
    cluster.settle()
    revision = cluster.model.status.update_revision[:8]
    assert cluster.names("StatefulSet") == [f"tiny-{revision}-0", f"tiny-{revision}-1"]
    status = cluster.model.status
    assert (status.replicas, status.ready_replicas) == (2, 1)
    assert (status.holds("Available"), status.holds("Ready")) == (True, False)
    assert status.phase == "Starting"


def test_scaling_down_deletes_the_groups_above() -> None:
    cluster = ready(ModelBuilder().with_spec(replicas=3))
    cluster.builder.with_spec(replicas=1).at_generation(2)
    cluster.settle()
    assert [name[-2:] for name in cluster.names("StatefulSet")] == ["-0"]
    assert [n[-2:] for n in cluster.names("Service") if n != "tiny"] == ["-0"]
    assert cluster.model.status.holds("Ready")


def test_scaled_to_zero_is_ready_but_not_available() -> None:
    cluster = ready()
    cluster.builder.with_spec(replicas=0).at_generation(2)
    cluster.settle()
    assert cluster.names("StatefulSet") == []
    assert reason(cluster) == "ScaledToZero"
    assert cluster.model.status.holds("Ready")
    assert not cluster.model.status.holds("Available")


def test_suspending_stops_all_pods_and_resuming_brings_them_back() -> None:
    cluster = ready()
    name = cluster.names("StatefulSet")[0]
    template = cluster.objects["StatefulSet", name]["spec"]["template"]
    cluster.builder.with_spec(suspend=True).at_generation(2)
    cluster.settle()
    assert cluster.objects["StatefulSet", name]["spec"]["replicas"] == 0
    assert (cluster.model.status.phase, reason(cluster)) == ("Suspended", "Suspended")
    cluster.builder.with_spec(suspend=False).at_generation(3)
    cluster.settle()
    assert cluster.objects["StatefulSet", name]["spec"]["replicas"] == 2
    assert cluster.objects["StatefulSet", name]["spec"]["template"] == template
    assert event_reasons(cluster).count("Suspended") == 1


def test_a_model_that_is_born_suspended_starts_nothing() -> None:
    cluster = SimulatedCluster(ModelBuilder().with_spec(suspend=True))
    cluster.settle()
    assert cluster.objects == {}
    assert reason(cluster, "Sharded") == "Suspended"


def test_a_failed_job_is_not_tried_again_while_suspended() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Failed", 4, failure("NotFound"))
    cluster.builder.with_spec(suspend=True).at_generation(2)
    cluster.pass_time(600)
    decided = cluster.settle()
    assert len(cluster.names("Job")) == 1
    assert decided.requeue_after is None


def test_a_layout_found_while_suspended_starts_no_ranks() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.builder.with_spec(suspend=True).at_generation(2)
    cluster.end_job("Complete", 0, summary().to_json())
    cluster.settle()
    assert cluster.names("StatefulSet") == []


def test_suspending_in_the_middle_of_an_update_stops_both_revisions() -> None:
    cluster = ready()
    change(cluster, image="runtime:2")
    cluster.settle()
    cluster.builder.with_spec(suspend=True)
    cluster.settle()
    (kept,) = cluster.of_kind("StatefulSet")
    assert kept["spec"]["replicas"] == 0
    assert kept["metadata"]["labels"][labels.REVISION] == cluster.model.status.update_revision


# Updates


def test_surge_brings_the_new_revision_up_beside_the_old_one() -> None:
    cluster = ready()
    old = cluster.model.status.current_revision
    change(cluster, image="runtime:2")
    cluster.settle()
    status = cluster.model.status
    assert len(cluster.names("StatefulSet")) == 2
    assert cluster.objects["Service", "tiny"]["spec"]["selector"][labels.REVISION] == old
    assert (status.phase, status.holds("Available")) == ("Updating", True)
    assert status.current_revision == old != status.update_revision


def test_surge_switches_when_the_new_revision_is_ready_and_then_drains() -> None:
    cluster = ready()
    old = cluster.names("StatefulSet")[0]
    change(cluster, image="runtime:2")
    cluster.settle()
    new = next(name for name in cluster.names("StatefulSet") if name != old)
    cluster.run_ranks(new)
    switching = cluster.step()
    assert [m["kind"] for m in switching.apply] == ["Service"]
    assert switching.delete == ()
    assert reason(cluster) == "Switching"
    cluster.settle()
    assert cluster.names("StatefulSet") == [new]
    assert cluster.names("Service") == ["tiny", new]
    assert cluster.model.status.phase == "Ready"


def test_an_update_that_cannot_go_on_leaves_the_old_revision_serving() -> None:
    cluster = ready()
    old = cluster.names("StatefulSet")[0]
    change(cluster, image="no-such-image")
    cluster.settle()
    new = next(name for name in cluster.names("StatefulSet") if name != old)
    cluster.rank_pod(new, 0).waiting("ImagePullBackOff", "not found")
    cluster.settle()
    status = cluster.model.status
    assert old in cluster.names("StatefulSet")
    assert (status.phase, reason(cluster)) == ("Degraded", "ImagePullFailed")
    assert status.holds("Available")


def test_a_revert_goes_back_to_the_old_revision_for_nothing() -> None:
    cluster = ready()
    old = cluster.names("StatefulSet")
    change(cluster, image="runtime:2")
    cluster.settle()
    change(cluster, image="")
    cluster.settle()
    assert cluster.names("StatefulSet") == old
    assert cluster.model.status.holds("Ready")


def test_an_abandoned_revision_that_never_served_goes() -> None:
    cluster = ready()
    change(cluster, image="runtime:2")
    cluster.settle()
    change(cluster, image="runtime:3")
    cluster.settle()
    assert len(cluster.names("StatefulSet")) == 2


def test_a_new_sharding_keeps_the_old_revision_serving_until_it_is_there() -> None:
    cluster = ready()
    cluster.builder.with_spec(parallelism={"tensor": 4}).at_generation(2)
    cluster.settle()
    assert len(cluster.names("StatefulSet")) == 1
    assert cluster.model.status.phase == "Updating"
    assert cluster.model.status.holds("Available")
    assert not cluster.model.status.holds("Sharded")


def test_recreate_deletes_the_old_revision_before_it_makes_the_new_one() -> None:
    cluster = ready(ModelBuilder().with_spec(rollout={"strategy": "Recreate"}))
    change(cluster, image="runtime:2")
    first = cluster.step()
    assert [m["kind"] for m in first.apply] == []
    assert {ref.kind for ref in first.delete} == {"StatefulSet", "Service"}
    second = cluster.step()
    assert [m["kind"] for m in second.apply] == ["Service", "StatefulSet"]


def test_recreate_waits_until_the_old_pods_are_gone() -> None:
    cluster = ready(ModelBuilder().with_spec(rollout={"strategy": "Recreate"}))
    pod = cluster.objects["Pod", f"{cluster.names('StatefulSet')[0]}-1"]
    change(cluster, image="runtime:2")
    cluster.step()
    pod["metadata"]["deletionTimestamp"] = "2026-11-22T20:00:00Z"
    cluster.objects["Pod", "leaving"] = pod
    cluster.settle()
    assert cluster.names("StatefulSet") == []
    del cluster.objects["Pod", "leaving"]
    cluster.settle()
    assert len(cluster.names("StatefulSet")) == 1


# Broken specs, foreign objects, the end


def test_an_invalid_spec_stalls_and_applies_nothing() -> None:
    cluster = SimulatedCluster(ModelBuilder().with_parallelism(tensor=0))
    cluster.settle()
    assert cluster.objects == {}
    assert reason(cluster) == "InvalidSpec"
    assert "spec.parallelism.tensor" in message(cluster)
    assert cluster.model.status.phase == "Failed"
    assert event_reasons(cluster) == ["InvalidSpec"]


def test_an_invalid_spec_leaves_what_runs_alone() -> None:
    cluster = ready()
    before = dict(cluster.objects)
    cluster.builder.with_parallelism(tensor=0).at_generation(2)
    cluster.settle()
    assert cluster.objects == before
    assert cluster.model.status.phase == "Degraded"
    assert cluster.model.status.holds("Available")


def test_a_mended_spec_heals_without_a_delete() -> None:
    cluster = ready()
    cluster.builder.with_parallelism(tensor=0).at_generation(2)
    cluster.settle()
    cluster.builder.with_parallelism(tensor=2).at_generation(3)
    cluster.settle()
    assert cluster.model.status.holds("Ready")


def test_nothing_is_done_for_a_model_on_its_way_out() -> None:
    cluster = ready()
    cluster.builder.deleting()
    decided = cluster.step()
    assert (decided.apply, decided.delete, decided.events) == ((), (), ())


def test_objects_of_a_former_model_of_the_same_name_are_not_adopted() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.builder.body["metadata"]["uid"] = "uid-of-the-new-one"
    decided = cluster.step()
    assert decided.apply == ()
    assert decided.delete == ()
    assert decided.requeue_after == cluster.settings.poll_seconds


def test_objects_that_lost_their_owner_are_adopted() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.builder.body["metadata"]["uid"] = "uid-of-the-new-one"
    for job in cluster.of_kind("Job"):
        del job["metadata"]["ownerReferences"]
    decided = cluster.step()
    assert [each["kind"] for each in decided.apply] == ["Job"]
    owners = [o["uid"] for j in cluster.of_kind("Job") for o in j["metadata"]["ownerReferences"]]
    assert owners == ["uid-of-the-new-one"]


def test_a_transition_time_moves_only_when_the_status_flips() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    first = cluster.model.status.condition("Ready")
    cluster.pass_time(100)
    cluster.end_job("Failed", 4, failure("NotFound"))
    cluster.settle()
    second = cluster.model.status.condition("Ready")
    assert first is not None
    assert second is not None
    assert first.reason != second.reason
    assert first.last_transition_time == second.last_transition_time


def test_a_lost_rank_of_the_only_group_is_told_with_its_cause() -> None:
    cluster = ready()
    name = cluster.names("StatefulSet")[0]
    cluster.rank_pod(name, 1).running().ended(137, reason="OOMKilled", state="lastState")
    cluster.settle()
    status = cluster.model.status
    assert (status.phase, reason(cluster)) == ("Failed", "OutOfMemory")
    assert "rank 1" in message(cluster)
    assert not status.holds("Available")


def test_a_broken_group_beside_a_serving_one_is_degraded() -> None:
    cluster = ready(ModelBuilder().with_spec(replicas=2))
    name = cluster.names("StatefulSet")[1]
    cluster.rank_pod(name, 0).unschedulable("0/3 nodes are available")
    cluster.settle()
    assert (cluster.model.status.phase, reason(cluster)) == ("Degraded", "Unschedulable")
    assert cluster.model.status.holds("Reconciling")


def test_a_model_without_room_is_pending() -> None:
    cluster = sharded()
    name = cluster.names("StatefulSet")[0]
    cluster.rank_pod(name, 0).unschedulable("0/1 nodes: 1 Insufficient nvidia.com/gpu")
    cluster.settle()
    assert (cluster.model.status.phase, reason(cluster)) == ("Pending", "Unschedulable")


def test_a_pod_that_came_back_is_reported_by_its_new_report_alone() -> None:
    cluster = ready()
    name = cluster.names("StatefulSet")[0]
    report = group_report(name)
    stale = [r.model_copy(update={"pod": "another-pod"}) for r in report.ranks]
    cluster.reports[name] = report.model_copy(update={"ranks": stale})
    cluster.rank_pod(name, 0).running()
    cluster.settle()
    assert cluster.model.status.ranks[0].state == "starting"


def test_the_clock_is_the_only_thing_that_moves_a_settled_failure() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Failed", 4, failure("NotFound"))
    cluster.settle()
    before = cluster.model.status
    cluster.now += seconds(3)
    assert cluster.step().status == before
