"""An operator that dies at any of its calls is followed by one that ends in the same state."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from shardedmodel_operator.planning import labels
from tests.builders.operator import ModelBuilder, failure, group_report, stamp, summary
from tests.simulated_api import Operator, OperatorDied, SimulatedApi, When
from tests.simulated_cluster import SimulatedCluster

ROUNDS = 60
"""Looks until everything must have come to rest."""
ROUND_SECONDS = 11
"""Between two looks: longer than progress is held back, and than the first back-off."""
DOCUMENT = Path(__file__).parents[4] / "docs" / "failures.md"

Deed = Callable[[SimulatedCluster], None]


def _spec(**fields: Any) -> Deed:
    def deed(cluster: SimulatedCluster) -> None:
        cluster.builder.with_spec(**fields).at_generation(cluster.model.generation + 1)

    return deed


def _nothing(cluster: SimulatedCluster) -> None:
    """A model that was just created."""


def _rank_loops(cluster: SimulatedCluster) -> None:
    (name,) = cluster.names("StatefulSet")
    pod = cluster.rank_pod(name, 1).running().waiting("CrashLoopBackOff").restarted(3)
    ended = failure("Unavailable", retryable=True)
    pod.ended(5, ended, at=cluster.now, state="lastState")
    cluster.reports.clear()


def _delete(cluster: SimulatedCluster) -> None:
    cluster.builder.deleting(cluster.now)


SCENARIOS: dict[str, tuple[ModelBuilder | None, Deed]] = {
    "create": (None, _nothing),
    "re-shard from 2 to 4 ranks": (ModelBuilder(), _spec(parallelism={"tensor": 4})),
    "scale from 1 group to 3": (ModelBuilder(), _spec(replicas=3)),
    "scale from 3 groups to 1": (ModelBuilder().with_spec(replicas=3), _spec(replicas=1)),
    "suspend": (ModelBuilder(), _spec(suspend=True)),
    "ask for NetworkPolicies": (ModelBuilder(), _spec(networkPolicy={})),
    "a rank that ends again and again": (ModelBuilder(), _rank_loops),
    "delete with `retention: Delete`": (ModelBuilder().with_retention("Delete"), _delete),
}
"""What happens, to a model that is Ready before (None: to none)."""


def kubelet(cluster: SimulatedCluster) -> None:
    """Let Jobs succeed, and ranks run unless one of them is in a loop."""
    for job in cluster.observed().jobs:
        if job.meta.role == labels.ROLE_CLEANUP:
            _cleaned_up(cluster, job.meta.name)
        elif not job.finished:
            told = summary(layout_hash=job.request)
            cluster.end_job("Complete", 0, told.to_json(), job.attempt, job.request)
    for each in cluster.observed().stateful_sets:
        pods = cluster.observed().pods_of(each.meta)
        if any(c.waiting_reason for pod in pods for c in pod.containers):
            _loop_on(cluster, each.meta.name)
        else:
            cluster.run_ranks(each.meta.name)
            cluster.reports[each.meta.name] = group_report(each.meta.name, each.replicas or 1)


def _cleaned_up(cluster: SimulatedCluster, name: str) -> None:
    done = {"type": "Complete", "status": "True", "lastTransitionTime": stamp(cluster.now)}
    cluster.objects["Job", name]["status"] = {"conditions": [done]}


def _loop_on(cluster: SimulatedCluster, name: str) -> None:
    if cluster.model.status.groups[0].unready_since:
        _rank_loops(cluster)


def run(name: str, dies_at: int | None, when: When = "before") -> SimulatedApi:
    """Play a scenario until everything is at rest."""
    builder, deed = SCENARIOS[name]
    cluster = SimulatedCluster(copy.deepcopy(builder or ModelBuilder()))
    if builder is not None:
        _drive(SimulatedApi(cluster))
    deed(cluster)
    api = SimulatedApi(cluster, dies_at, when)
    _drive(api)
    return api


def _drive(api: SimulatedApi) -> None:
    operator, quiet = Operator(api), 0
    for _ in range(ROUNDS):
        before = api.calls
        try:
            operator.look()
        except OperatorDied:
            operator = Operator(api)
            continue
        quiet = quiet + 1 if api.calls == before else 0
        if quiet == 3:
            return
        kubelet(api.cluster)
        api.cluster.collect_garbage()
        api.cluster.pass_time(ROUND_SECONDS)
    raise AssertionError(f"not at rest after {ROUNDS} looks")


def end_state(api: SimulatedApi) -> dict[str, Any]:
    """Everything that is there, without what differs from run to run: uids and times."""
    objects = {
        f"{kind} {name}": _timeless(body["spec"])
        for (kind, name), body in api.cluster.objects.items()
    }
    return objects | {"status": _timeless(api.cluster.builder.body["status"])}


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _timeless(item)
        for key, item in value.items()
        if not key.endswith(("Time", "At", "Since"))
    }


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_operator_that_dies_at_any_call_is_followed_by_one_that_ends_alike(name: str) -> None:
    undisturbed = run(name, None)
    wanted = end_state(undisturbed)
    assert undisturbed.calls > 0
    for when in get_args(When):
        for call in range(undisturbed.calls):
            disturbed = run(name, call, when)
            assert end_state(disturbed) == wanted, f"died {when} call {call}"
            twice = [k for k, n in Counter(disturbed.made).items() if k[:3] == "Job" and n > 1]
            assert twice == [], f"died {when} call {call}"
            assert set(disturbed.made) == set(undisturbed.made), f"died {when} call {call}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_document_says_how_many_calls_were_tried(name: str) -> None:
    calls = run(name, None).calls
    assert f"| {name} | {calls} | {2 * calls} |" in DOCUMENT.read_text()
