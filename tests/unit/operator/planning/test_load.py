from __future__ import annotations

from datetime import timedelta

import pytest

from shardedmodel_operator.api.status import LoadStatus, RankStatus, ShardedModelStatus
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.group_views import GroupView
from shardedmodel_operator.planning.load import (
    group_statuses,
    listed_ranks,
    load_status,
    view_ranks,
)
from shardedmodel_operator.planning.objects import (
    Job,
    Meta,
    Pod,
    StatefulSet,
    model_name,
)
from shardedmodel_operator.planning.observed import Observed, report_targets
from shardedmodel_operator.planning.status import worth_writing
from shardedmodel_runtime.report import GroupReport, RankReport
from tests.builders.operator import (
    NOW,
    JobBuilder,
    ModelBuilder,
    ObjectBuilder,
    PodBuilder,
    group_report,
)

MODEL = ModelBuilder().build()


def a_group(
    world: int = 2, ready: bool = True, report: GroupReport | None = None, per_pod: int = 1
) -> GroupView:
    meta = Meta(
        "tiny-0",
        "uid-set",
        {labels.RANKS_PER_POD: str(per_pod), labels.GROUP: "0"},
        owner_uid="uid-tiny",
    )
    pods = [
        Pod.from_object(PodBuilder(f"tiny-0-{n}", "uid-set").running(ready).body)
        for n in range(world // per_pod)
    ]
    return GroupView(StatefulSet(meta, world // per_pod), tuple(pods), report)


def test_load_figures_follow_from_the_ranks_reports() -> None:
    group = a_group(4, report=group_report("tiny-0", 4))
    load = load_status(view_ranks([group]), group.ranks, [group], None)
    assert load == LoadStatus(
        ranks_loaded="4/4",
        bytes=4_000_000_000,
        max_seconds=4.0,
        p50_seconds=2.5,
        skew_seconds=3.0,
        aggregate_bytes_per_second=1e9,
        duration="4.0s",
        throughput="1.00",
        slowest_rank="3@tiny-0-3",
        join_seconds=0.5,
        memory_efficiency=0.8,
    )


def test_ranks_that_still_load_are_not_counted() -> None:
    group = a_group(ready=False, report=group_report("tiny-0", state="loading"))
    load = load_status(view_ranks([group]), group.ranks, [group], None)
    assert (load.ranks_loaded, load.duration) == ("0/2", "")


def test_a_ready_rank_keeps_the_figures_of_its_load_when_a_report_has_none() -> None:
    loaded = view_ranks([a_group(report=group_report("tiny-0"))])
    empty = GroupReport(layout_hash="0" * 8, world_size=2, ranks=[RankReport(rank=0)])
    later = view_ranks([a_group(report=empty)], [rank.status for rank in loaded])
    assert later[0].status == loaded[0].status


def test_a_rank_shows_its_place_and_progress() -> None:
    group = a_group(ready=False, report=group_report("tiny-0", state="loading"))
    rank = listed_ranks(view_ranks([group]))[1]
    assert rank == RankStatus(
        id=1,
        group=0,
        pod="tiny-0-1",
        node="node-a",
        state="loading",
        bytes=1_000_000_000,
        bytes_done=500_000_000,
        bytes_read=500_000_000,
        seconds=2.0,
        bytes_per_second=250_000_000.0,
        device="cpu",
    )


def test_a_pod_of_several_gpus_shows_each_of_its_ranks() -> None:
    group = a_group(4, per_pod=2)
    ranks = listed_ranks(view_ranks([group]))
    assert [(rank.id, rank.pod) for rank in ranks] == [
        (0, "tiny-0-0"),
        (1, "tiny-0-0"),
        (2, "tiny-0-1"),
        (3, "tiny-0-1"),
    ]


def test_of_many_ranks_the_unready_and_the_slowest_are_listed() -> None:
    group = a_group(100, report=group_report("tiny-0", 100))
    waiting = Pod.from_object(PodBuilder("tiny-0-5", "uid-set").body)
    pods = (*group.pods[:5], waiting, *group.pods[6:])
    ranks = listed_ranks(view_ranks([GroupView(group.set, pods, group.report)]))
    assert len(ranks) == 64
    assert {5, 99} <= {rank.id for rank in ranks}
    assert 0 not in {rank.id for rank in ranks}


@pytest.mark.parametrize(
    ("pod", "state"),
    [
        (PodBuilder("tiny-0-0", "uid-set"), "pending"),
        (PodBuilder("tiny-0-0", "uid-set").running(), "starting"),
        (PodBuilder("tiny-0-0", "uid-set").running(ready=True), "ready"),
        (PodBuilder("tiny-0-0", "uid-set").failed("Evicted"), "failed"),
        (PodBuilder("tiny-0-0", "uid-set").waiting("CrashLoopBackOff").restarted(2), "failed"),
    ],
)
def test_without_a_report_a_ranks_state_is_its_pods(pod: PodBuilder, state: str) -> None:
    group = a_group(1)
    group = GroupView(group.set, (Pod.from_object(pod.body),), None)
    assert view_ranks([group])[0].status.state == state


def test_incarnations_survive_a_report_that_is_missing() -> None:
    told = a_group(report=group_report("tiny-0", incarnation=3))
    before = group_statuses([told], [])
    assert before[0].incarnation == 3
    assert group_statuses([a_group()], before) == before


# Which reports are pulled


def observed(*pods: PodBuilder, job: JobBuilder | None = None) -> Observed:
    return Observed(
        jobs=(Job.from_object(job.body),) if job else (),
        pods=tuple(Pod.from_object(pod.body) for pod in pods),
        stateful_sets=(a_group().set,),
    )


def test_rank_0_is_asked_for_its_group() -> None:
    running = [PodBuilder(f"tiny-0-{n}", "uid-set").running(ip=f"10.0.0.{n}") for n in range(2)]
    (target,) = report_targets(MODEL, observed(*running))
    assert (target.key, target.kind) == ("tiny-0", "GroupReport")
    assert target.url == "http://10.0.0.0:8080/report"


def test_an_ipv6_address_is_bracketed() -> None:
    (target,) = report_targets(
        MODEL, observed(PodBuilder("tiny-0-0", "uid-set").running(ip="fd00::1"))
    )
    assert target.url == "http://[fd00::1]:8080/report"


def test_a_running_job_is_asked_and_a_finished_one_is_not() -> None:
    job = JobBuilder("0" * 20)
    pod = PodBuilder("pod", job.body["metadata"]["uid"], "shard").running()
    (target,) = report_targets(MODEL, observed(pod, job=job))
    assert (target.key, target.kind) == ("pod", "ShardProgress")
    assert report_targets(MODEL, observed(pod, job=job.ended("Complete"))) == []


def test_nobody_is_asked_who_does_not_run_or_belongs_to_another() -> None:
    waiting = PodBuilder("tiny-0-0", "uid-set")
    assert report_targets(MODEL, observed(waiting)) == []
    other = ModelBuilder("other").build()
    assert report_targets(other, observed(waiting.running())) == []


def test_of_a_model_that_goes_only_the_job_that_cuts_is_asked() -> None:
    leaving = ModelBuilder().deleting(NOW).build()
    job = JobBuilder("0" * 20)
    cutting = PodBuilder("pod", job.body["metadata"]["uid"], "shard").running()
    rank = PodBuilder("tiny-0-0", "uid-set").running()
    assert [t.key for t in report_targets(leaving, observed(rank, cutting, job=job))] == ["pod"]
    job.body["metadata"]["labels"][labels.ROLE] = labels.ROLE_CLEANUP
    assert report_targets(leaving, observed(rank, cutting, job=job)) == []


def test_objects_tell_their_model_or_none() -> None:
    body = ObjectBuilder("Service", "x", "uid").body
    assert model_name(body) == "tiny"
    assert model_name({"metadata": {"name": "x"}}) is None


# When status is written


def status(**fields: object) -> ShardedModelStatus:
    return ShardedModelStatus.model_validate({"observedGeneration": 1, "phase": "Loading"} | fields)


def test_an_equal_status_is_not_written() -> None:
    assert not worth_writing(status(), status(), None, NOW)


def test_a_change_of_state_is_written_at_once() -> None:
    assert worth_writing(status(), status(phase="Ready"), NOW, NOW)


@pytest.mark.parametrize(("after", "written"), [(9, False), (10, True)])
def test_progress_is_written_every_ten_seconds(after: int, written: bool) -> None:
    progress = status(sharding={"bytesDone": 5})
    before = status(sharding={"bytesDone": 1})
    assert worth_writing(before, progress, NOW, NOW + timedelta(seconds=after)) is written


def test_progress_is_written_when_nobody_knows_when_it_was_last() -> None:
    assert worth_writing(status(), status(load={"bytes": 5}), None, NOW)
