from __future__ import annotations

import copy
from typing import Any

from tests.crashmatrix.states import differences, state_of

Body = dict[str, Any]


def model(**status: Any) -> Body:
    told = {"observedGeneration": 3, "phase": "Ready", **status}
    return {
        "kind": "ShardedModel",
        "metadata": {"name": "m", "namespace": "life-1", "uid": "1", "generation": 3},
        "spec": {"parallelism": {"tensor": 2}},
        "status": told,
    }


def job(name: str = "m-shard-0a1b2c3d-1") -> Body:
    owner = {"kind": "ShardedModel", "name": "m", "uid": "1"}
    return {
        "kind": "Job",
        "metadata": {"name": name, "uid": "2", "ownerReferences": [owner]},
        "spec": {"selector": {"matchLabels": {"controller-uid": "2"}}, "backoffLimit": 0},
        "status": {"conditions": [{"type": "Complete", "status": "True"}]},
    }


def pod_of(job: Body, suffix: str) -> Body:
    owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": "2"}
    name = f"{job['metadata']['name']}-{suffix}"
    return {
        "kind": "Pod",
        "metadata": {"name": name, "uid": suffix, "ownerReferences": [owner]},
        "spec": {"nodeName": "devcluster"},
        "status": {"phase": "Succeeded"},
    }


def found(one: list[Body], other: list[Body], *, traces: bool = True) -> list[str]:
    wanted = state_of(one, {}, traces=traces)
    return list(differences(wanted, state_of(other, {}, traces=traces)))


def test_uids_times_and_figures_make_no_difference() -> None:
    other = model(progressAt="2026-11-23T00:00:00Z", load={"maxSeconds": 3.5})
    other["metadata"] |= {"uid": "9", "namespace": "life-2"}
    assert found([model(load={"maxSeconds": 1.5})], [other]) == []


def test_a_message_may_tell_another_time() -> None:
    one, other = model(message="cut in 3.2 s"), model(message="cut in 14 s")
    assert found([one], [other]) == []


def test_the_end_of_a_jobs_pod_name_is_chance() -> None:
    assert found([pod_of(job(), "abcde")], [pod_of(job(), "vwxyz")]) == []


def test_another_phase_is_named_with_its_place() -> None:
    assert found([model()], [model(phase="Degraded")]) == [
        "ShardedModel m.status.phase: 'Degraded' instead of 'Ready'"
    ]


def test_a_second_job_is_surplus() -> None:
    assert found([job()], [job(), job("m-shard-0a1b2c3d-2")]) == [
        "Job m-shard-0a1b2c3d-2 is surplus"
    ]


def test_a_second_attempt_counts_for_the_first_where_traces_are_left_out() -> None:
    assert found([job()], [job("m-shard-0a1b2c3d-2")], traces=False) == []


def test_a_status_of_an_older_spec_is_a_difference() -> None:
    assert found([model()], [model(observedGeneration=2)]) == [
        "ShardedModel m.current: False instead of True"
    ]


def test_a_pod_on_its_way_out_is_not_there() -> None:
    going = pod_of(job(), "abcde")
    going["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    assert found([], [going]) == []


def test_objects_of_the_store_are_compared_by_their_bytes() -> None:
    wanted, got = state_of([], {"a": 1, "b": 2}), state_of([], {"b": 3, "c": 4})
    assert list(differences(wanted, got)) == [
        "store a is missing",
        "store b: 3 instead of 2",
        "store c is surplus",
    ]


def test_restarts_are_compared_where_no_rank_is_killed() -> None:
    restarted = copy.deepcopy(model(groups=[{"incarnation": 2}]))
    assert found([model(groups=[{"incarnation": 1}])], [restarted]) != []
    assert found([model(groups=[{"incarnation": 1}])], [restarted], traces=False) == []
