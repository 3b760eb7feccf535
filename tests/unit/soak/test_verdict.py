from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.soak.choices import Choice, Flaw
from tests.soak.state import State
from tests.soak.verdict import findings
from tests.unit.soak.builders import (
    FORMER,
    Scene,
    owned,
    ready,
    set_condition,
    stalled,
    suspended,
)

BAD_SOURCE = Choice(flaw=Flaw.SOURCE)


def judge(scene: Scene) -> list[str]:
    return findings({"m": scene.choice}, scene.state)


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param(ready(), id="ready"),
        pytest.param(ready(Choice(passing=True)), id="ready, layout to be deleted"),
        pytest.param(ready(Choice(replicas=0)), id="at zero"),
        pytest.param(suspended(), id="suspended"),
        pytest.param(stalled(BAD_SOURCE, "NotFound"), id="stalled by its spec"),
    ],
)
def test_nothing_is_found_where_all_is_as_asked_for(scene: Scene) -> None:
    assert judge(scene) == []


def test_nothing_is_found_where_nothing_is_asked_for_and_nothing_is_there() -> None:
    assert findings({}, State({})) == []


def test_a_model_that_was_not_asked_for_is_found() -> None:
    assert "ShardedModel m was deleted and is there" in findings({}, ready().state)


def test_a_model_that_is_missing_is_found() -> None:
    assert findings({"m": Choice()}, State({})) == ["ShardedModel m was applied and is not there"]


def leave_an_orphan(scene: Scene) -> None:
    scene.add("Pod", owned("left", "a-model-that-was"))


def leave_a_configmap(scene: Scene) -> None:
    scene.add("ConfigMap", {"metadata": {"name": "left", "uid": "left"}})


def keep_a_pod_leaving(scene: Scene) -> None:
    scene.objects["Pod"][0]["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"


def lose_a_pod(scene: Scene) -> None:
    del scene.objects["Pod"][0]


def unready_a_pod(scene: Scene) -> None:
    scene.objects["Pod"][0]["status"]["conditions"][0]["status"] = "False"


def keep_a_former_group(scene: Scene) -> None:
    scene.add_group(0, FORMER)


def keep_a_group_too_many(scene: Scene) -> None:
    scene.add_group(scene.choice.replicas)


def lose_a_service(scene: Scene) -> None:
    del scene.objects["Service"][0]


def lose_the_endpoint(scene: Scene) -> None:
    scene.objects["Service"].pop()


def send_elsewhere(scene: Scene) -> None:
    scene.objects["Service"][-1]["spec"]["selector"]["shardedmodel.dev/revision"] = FORMER


def make_a_job_twice(scene: Scene) -> None:
    scene.add_job()


def leave_a_job_running(scene: Scene) -> None:
    scene.objects["Job"] = []
    scene.add_job(outcome="")


def keep_a_failed_job_of_a_former_request(scene: Scene) -> None:
    scene.add_job("4a57", "Failed")


def keep_too_many_former_jobs(scene: Scene) -> None:
    for number in range(4):
        scene.add_job(f"4a57-{number}")


def lag_behind(scene: Scene) -> None:
    scene.model["status"]["observedGeneration"] = 2


def be_another_spec(scene: Scene) -> None:
    scene.model["spec"]["workers"]["template"] = {}


def carry_a_finalizer(scene: Scene) -> None:
    scene.model["metadata"]["finalizers"] = ["shardedmodel.dev/layout"]


def go_on_reconciling(scene: Scene) -> None:
    set_condition(scene.model, "Reconciling", "True", "Loading")


def miscount_groups(scene: Scene) -> None:
    scene.model["status"]["readyReplicas"] = 1


@pytest.mark.parametrize(
    "disturb",
    [
        leave_an_orphan,
        leave_a_configmap,
        keep_a_pod_leaving,
        lose_a_pod,
        unready_a_pod,
        keep_a_former_group,
        keep_a_group_too_many,
        lose_a_service,
        lose_the_endpoint,
        send_elsewhere,
        make_a_job_twice,
        leave_a_job_running,
        keep_a_failed_job_of_a_former_request,
        keep_too_many_former_jobs,
        lag_behind,
        be_another_spec,
        carry_a_finalizer,
        go_on_reconciling,
        miscount_groups,
    ],
)
def test_what_is_not_as_asked_for_is_found(disturb: Callable[[Scene], None]) -> None:
    scene = ready()
    disturb(scene)
    assert judge(scene) != []


def test_a_model_that_stalls_without_a_flaw_in_its_spec_is_found() -> None:
    scene = stalled(Choice(), "NotFound")
    assert any("Ready says NotFound, not Ready" in finding for finding in judge(scene))


def test_a_model_that_stalls_for_another_reason_than_its_flaw_is_found() -> None:
    scene = stalled(BAD_SOURCE, "CrashLoop")
    assert any("Ready says CrashLoop, not NotFound" in finding for finding in judge(scene))


def test_a_suspended_model_with_pods_is_found() -> None:
    scene = suspended()
    scene.objects["StatefulSet"][0]["spec"]["replicas"] = 1
    assert judge(scene) != []


def test_a_stalled_model_that_keeps_three_revisions_is_found() -> None:
    scene = stalled(BAD_SOURCE, "NotFound")
    scene.add_group(0, "aaaa")
    scene.add_group(0, "bbbb")
    assert any("has the revisions" in finding for finding in judge(scene))


def test_a_stalled_model_may_be_at_its_next_attempt() -> None:
    scene = stalled(BAD_SOURCE, "NotFound")
    scene.add_job(outcome="")
    assert judge(scene) == []
