from __future__ import annotations

import pytest

from shardedmodel_runtime.report import ShardProgress
from tests.builders.operator import (
    LAYOUT_HASH,
    ModelBuilder,
    failure,
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

# Pre-sharding


def test_a_new_model_gets_one_job_and_says_what_it_waits_for() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    (job,) = cluster.of_kind("Job")
    request = cluster.builder.request
    assert job["metadata"]["name"] == f"tiny-shard-{request[:8]}-1"
    assert cluster.names("StatefulSet") == []
    assert (cluster.model.status.phase, reason(cluster)) == ("Pending", "ShardingStarting")


def test_all_conditions_are_set_at_the_first_look() -> None:
    cluster = SimulatedCluster()
    cluster.step()
    status = cluster.model.status
    assert [c.type for c in status.conditions] == [
        "Ready",
        "Available",
        "Sharded",
        "Loaded",
        "GroupFormed",
        "Reconciling",
    ]


def test_progress_of_the_running_job_is_shown_and_polled() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    name = cluster.job_pod().running().body["metadata"]["name"]
    cluster.progress[name] = ShardProgress(
        objects=3, bytes=100, bytes_done=40, bytes_per_second=20, remaining_seconds=3, seconds=2
    )
    decided = cluster.settle()
    sharding = cluster.model.status.sharding
    assert sharding is not None
    assert (sharding.bytes_done, sharding.bytes, sharding.remaining_seconds) == (40, 100, 3)
    assert decided.requeue_after == cluster.settings.poll_seconds
    assert cluster.model.status.phase == "Sharding"


def test_progress_that_was_shown_stays_while_the_report_cannot_be_pulled() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    name = cluster.job_pod().running().body["metadata"]["name"]
    cluster.progress[name] = ShardProgress(
        objects=3, bytes=100, bytes_done=40, bytes_per_second=20, seconds=2
    )
    cluster.settle()
    cluster.progress.clear()
    cluster.settle()
    assert cluster.model.status.sharding is not None
    assert cluster.model.status.sharding.bytes_done == 40


def test_a_finished_job_leads_to_groups_of_the_layout_that_it_tells_of() -> None:
    cluster = sharded()
    status = cluster.model.status
    assert status.sharding is not None
    assert status.sharding.layout_hash == LAYOUT_HASH
    assert status.holds("Sharded")
    assert cluster.names("StatefulSet") == [f"tiny-{status.update_revision[:8]}-0"]
    assert f"s3://shards/{LAYOUT_HASH}" in str(cluster.of_kind("StatefulSet")[0])


def test_the_layout_is_remembered_when_the_jobs_pod_is_gone() -> None:
    cluster = ready()
    cluster.objects = {k: v for k, v in cluster.objects.items() if k[0] != "Job"}
    cluster.objects = {k: v for k, v in cluster.objects.items() if "-shard-" not in k[1]}
    decided = cluster.settle()
    assert decided.apply == ()
    assert cluster.model.status.holds("Ready")


def test_a_lost_status_is_found_again_from_the_finished_job() -> None:
    cluster = ready()
    before = cluster.model.status
    del cluster.builder.body["status"]
    decided = cluster.step()
    assert (decided.apply, decided.delete) == ((), ())
    assert decided.status == before


def test_a_lost_status_and_a_lost_pod_lead_to_a_new_attempt_and_break_nothing() -> None:
    cluster = ready()
    del cluster.builder.body["status"]
    cluster.objects = {
        k: v for k, v in cluster.objects.items() if not (k[0] == "Pod" and "-shard-" in k[1])
    }
    cluster.pass_time(60)
    cluster.settle()
    assert [name[-2:] for name in cluster.names("Job")] == ["-1", "-2"]
    assert len(cluster.names("StatefulSet")) == 1
    assert cluster.model.status.holds("Available")
    cluster.end_job("Complete", 0, summary(reused=True).to_json(), attempt=2)
    cluster.settle()
    assert cluster.model.status.holds("Ready")
    assert [name[-2:] for name in cluster.names("Job")] == ["-2"]


def test_a_job_whose_pod_is_gone_is_told_with_where_to_look() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    (name,) = cluster.names("Job")
    cluster.end_job("Failed", 1, "")
    gone = [key for key in cluster.objects if key[0] == "Pod"]
    for key in gone:
        del cluster.objects[key]
    cluster.settle()
    assert reason(cluster) == "JobFailed"
    assert f"kubectl describe job {name} says more" in message(cluster)


def test_a_job_that_ends_well_without_a_summary_is_named_and_tried_again() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Complete", 0, "hello")
    cluster.settle()
    assert reason(cluster) == "JobFailed"
    assert "runtime image" in message(cluster)


def test_unmatched_tensors_are_reported_with_their_bytes() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    told = summary(unmatched={"tensors": 2, "bytes": 5_000_000, "examples": ["x"]})
    cluster.end_job("Complete", 0, told.to_json())
    cluster.settle()
    event = next(e for e in cluster.events if e.reason == "TensorsReplicated")
    assert event.type == "Warning"
    assert "2 tensors (5.0 MB)" in event.message


# Failing and retrying


def test_the_next_attempt_waits_for_its_back_off() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Failed", 4, failure("AccessDenied", "s3://models: 403"))
    decided = cluster.settle()
    assert decided.requeue_after == cluster.settings.backoff_seconds
    assert len(cluster.names("Job")) == 1
    assert message(cluster).endswith("attempt 2 starts at 20:00:10Z")
    cluster.pass_time(10)
    cluster.settle()
    assert [name[-2:] for name in cluster.names("Job")] == ["-1", "-2"]


def test_the_back_off_doubles_to_its_limit() -> None:
    cluster = SimulatedCluster()
    waits = []
    for attempt in range(1, 8):
        cluster.settle()
        cluster.end_job("Failed", 5, failure("Unavailable", retryable=True), attempt)
        wait = cluster.settle().requeue_after
        assert wait is not None
        waits.append(wait)
        cluster.pass_time(wait)
    assert waits == [10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize(
    ("retryable", "present", "absent"),
    [(False, "Stalled", "Reconciling"), (True, "Reconciling", "Stalled")],
)
def test_a_failure_stays_reported_while_its_retry_runs(
    retryable: bool, present: str, absent: str
) -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Failed", 4, failure("Broken", retryable=retryable))
    cluster.settle()
    cluster.pass_time(10)
    cluster.settle()
    cluster.job_pod(attempt=2).running()
    cluster.settle()
    status = cluster.model.status
    assert (status.holds(present), status.condition(absent)) == (True, None)
    assert reason(cluster) == "Broken"
    assert "attempt 2 is under way" in message(cluster)


def test_a_failure_is_told_in_one_event_however_often_it_repeats() -> None:
    cluster = SimulatedCluster()
    for attempt in range(1, 4):
        cluster.settle()
        cluster.end_job("Failed", 4, failure("AccessDenied"), attempt)
        cluster.settle()
        cluster.pass_time(300)
    assert event_reasons(cluster).count("AccessDenied") == 1


def test_only_the_last_failed_job_is_kept_while_the_next_runs() -> None:
    cluster = SimulatedCluster()
    for attempt in range(1, 4):
        cluster.settle()
        cluster.end_job("Failed", 4, failure("AccessDenied"), attempt)
        cluster.settle()
        cluster.pass_time(300)
    cluster.settle()
    assert [name[-2:] for name in cluster.names("Job")] == ["-3", "-4"]


def test_a_mended_source_heals_at_the_next_attempt() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Failed", 4, failure("NotFound"))
    cluster.settle()
    cluster.pass_time(10)
    cluster.settle()
    cluster.end_job("Complete", 0, summary().to_json(), attempt=2)
    cluster.settle()
    status = cluster.model.status
    assert status.holds("Sharded")
    assert status.condition("Stalled") is None
    assert [name[-2:] for name in cluster.names("Job")] == ["-2"]


def test_a_changed_source_replaces_the_failing_job_at_once() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Failed", 4, failure("NotFound"))
    cluster.settle()
    old = cluster.names("Job")
    cluster.builder.with_spec(source={"uri": "s3://models/other"}).at_generation(2)
    cluster.settle()
    assert len(cluster.names("Job")) == 1
    assert cluster.names("Job") != old


def test_a_summary_counts_before_the_job_is_marked_complete() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.job_pod().ended(0, summary().to_json(), "Completed")
    cluster.settle()
    assert cluster.model.status.holds("Sharded")
    assert len(cluster.names("StatefulSet")) == 1


def test_a_job_whose_pods_end_is_not_yet_seen_is_still_sharding() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Complete", 0, summary().to_json())
    cluster.job_pod()
    cluster.settle()
    assert (cluster.model.status.phase, reason(cluster)) == ("Sharding", "Sharding")


def test_a_job_that_cannot_start_gives_way_to_a_mended_image() -> None:
    cluster = SimulatedCluster(ModelBuilder().with_workers(image="mistyped"))
    cluster.settle()
    cluster.job_pod().waiting("ImagePullBackOff", "not found")
    cluster.settle()
    assert reason(cluster) == "ImagePullFailed"
    change(cluster, image="")
    cluster.settle()
    assert [name[-2:] for name in cluster.names("Job")] == ["-2"]
    assert cluster.model.status.condition("Stalled") is None


def test_a_failed_job_gives_way_to_other_credentials_at_once() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.end_job("Failed", 4, failure("AccessDenied"))
    cluster.settle()
    cluster.builder.body["spec"]["source"]["credentialsSecretRef"] = {"name": "right"}
    cluster.settle()
    assert [name[-2:] for name in cluster.names("Job")] == ["-1", "-2"]


def test_a_running_job_is_not_disturbed_by_what_does_not_change_the_request() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    cluster.job_pod().running()
    change(cluster, image="runtime:2")
    cluster.settle()
    assert [name[-2:] for name in cluster.names("Job")] == ["-1"]


def test_ranks_are_counted_against_those_that_there_should_be() -> None:
    cluster = SimulatedCluster()
    cluster.settle()
    assert cluster.model.status.load is not None
    assert cluster.model.status.load.ranks_loaded == "0/2"


def test_a_job_without_pods_is_called_out_after_a_while() -> None:
    cluster = SimulatedCluster()
    decided = cluster.settle()
    assert decided.requeue_after == cluster.settings.missing_pods_seconds
    cluster.pass_time(cluster.settings.missing_pods_seconds)
    cluster.settle()
    assert reason(cluster) == "PodsNotCreated"
    assert "kubectl describe job tiny-shard-" in message(cluster)


def test_ranks_that_find_no_layout_lead_to_a_new_attempt() -> None:
    cluster = ready()
    group = cluster.names("StatefulSet")[0]
    cluster.pass_time(600)
    gone = failure("LayoutNotFound", "no manifest")
    cluster.rank_pod(group, 0).running().ended(6, gone, at=cluster.now, state="lastState")
    cluster.settle()
    assert [name[-2:] for name in cluster.names("Job")] == ["-1", "-2"]
    assert reason(cluster) == "LayoutNotFound"
    cluster.pass_time(5)
    cluster.end_job("Complete", 0, summary().to_json(), attempt=2)
    assert len(cluster.settle().apply) == 0
    assert len(cluster.names("Job")) == 1


def test_a_missing_layout_is_made_anew_also_when_the_job_is_gone() -> None:
    cluster = ready()
    group = cluster.names("StatefulSet")[0]
    cluster.objects = {k: v for k, v in cluster.objects.items() if "-shard-" not in k[1]}
    gone = failure("LayoutNotFound", "no manifest")
    cluster.rank_pod(group, 0).running().ended(6, gone, at=cluster.now, state="lastState")
    cluster.settle()
    assert [name[-2:] for name in cluster.names("Job")] == ["-1"]


def test_what_keeps_the_layout_from_being_made_anew_is_reported_first() -> None:
    cluster = ready()
    group = cluster.names("StatefulSet")[0]
    cluster.pass_time(600)
    gone = failure("LayoutNotFound", "no manifest")
    cluster.rank_pod(group, 0).running().ended(6, gone, at=cluster.now, state="lastState")
    cluster.settle()
    cluster.end_job("Failed", 4, failure("AccessDenied"), attempt=2)
    cluster.settle()
    assert reason(cluster) == "AccessDenied"
