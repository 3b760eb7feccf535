"""The disruption budget of a model: a drain takes one serving group at a time, and is never stuck.

The rules of evictions are those of Kubernetes' disruption controller and eviction subresource.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kubernetes_validate import validate  # type: ignore[import-untyped]

from tests.builders.operator import SETTINGS, ModelBuilder, group_report, summary
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import change, ready


def several(groups: int = 3) -> SimulatedCluster:
    """A model of some groups of two ranks each, Ready."""
    return ready(ModelBuilder().with_spec(replicas=groups))


def budget(cluster: SimulatedCluster) -> dict[str, Any]:
    (found,) = cluster.of_kind("PodDisruptionBudget")
    return found


def counted(cluster: SimulatedCluster) -> list[dict[str, Any]]:
    """The pods that the budget selects."""
    selector = budget(cluster)["spec"]["selector"]["matchLabels"]
    pods = cluster.of_kind("Pod")
    return [p for p in pods if selector.items() <= p["metadata"]["labels"].items()]


def evict(cluster: SimulatedCluster, name: str) -> bool:
    """Evict a pod as a drain would; gives whether the server lets it."""
    pods = counted(cluster)
    healthy = sum(is_ready(pod) for pod in pods)
    expected = sum(
        s["spec"]["replicas"]
        for s in cluster.of_kind("StatefulSet")
        if any(s["metadata"]["uid"] == p["metadata"]["ownerReferences"][0]["uid"] for p in pods)
    )
    desired: int = expected - budget(cluster)["spec"]["maxUnavailable"]
    if is_ready(cluster.objects["Pod", name]):
        allowed = healthy > desired
    else:
        allowed = healthy >= desired > 0
    if allowed:
        group = name.rpartition("-")[0]
        size = cluster.objects["StatefulSet", group]["spec"]["replicas"]
        # The others of the group are not ready any more; the evicted pod waits for a node.
        for ordinal in range(size):
            cluster.rank_pod(group, ordinal).running(ready=False)
        cluster.rank_pod(group, int(name.rpartition("-")[2])).unschedulable("no room")
    return allowed


def is_ready(pod: dict[str, Any]) -> bool:
    return {"type": "Ready", "status": "True"} in pod["status"]["conditions"]


@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_a_budget_matches_kubernetes_schemas(version: str) -> None:
    validate(budget(several()), version, strict=True)


def test_a_budget_goes_with_its_model() -> None:
    (owner,) = budget(several())["metadata"]["ownerReferences"]
    assert owner["uid"] == "uid-tiny"


def test_a_single_group_has_none_since_it_could_only_keep_nodes_from_being_drained() -> None:
    assert ready().names("PodDisruptionBudget") == []


def test_all_pods_of_one_group_may_be_evicted_at_once() -> None:
    cluster = several()
    group = cluster.names("StatefulSet")[0]
    assert evict(cluster, f"{group}-0")
    assert evict(cluster, f"{group}-1")


def test_no_second_group_is_lost_while_one_is() -> None:
    cluster = several()
    first, second, _ = cluster.names("StatefulSet")
    assert evict(cluster, f"{first}-0")
    assert not evict(cluster, f"{second}-0")
    cluster.run_ranks(first)
    assert evict(cluster, f"{second}-0")


def test_a_server_without_the_api_gets_none() -> None:
    cluster = SimulatedCluster(ModelBuilder().with_spec(replicas=3))
    cluster.settings = replace(SETTINGS, disruption_budgets=False)
    cluster.settle()
    cluster.end_job("Complete", 0, summary().to_json())
    cluster.settle()
    for name in cluster.names("StatefulSet"):
        cluster.run_ranks(name)
    cluster.settle()
    assert cluster.model.status.ready_replicas == 3
    assert cluster.names("PodDisruptionBudget") == []


def test_one_that_is_switched_off_goes() -> None:
    cluster = several()
    cluster.settings = replace(SETTINGS, disruption_budgets=False)
    cluster.settle()
    assert cluster.names("PodDisruptionBudget") == []


@pytest.mark.parametrize("spec", [{"replicas": 1}, {"replicas": 0}, {"suspend": True}])
def test_it_goes_with_the_groups(spec: dict[str, Any]) -> None:
    cluster = several()
    cluster.builder.with_spec(**spec).at_generation(2)
    cluster.settle()
    assert cluster.names("PodDisruptionBudget") == []


def test_it_stays_while_a_group_is_made_anew() -> None:
    cluster = several(2)
    before = budget(cluster)["metadata"]["uid"]
    name = cluster.names("StatefulSet")[1]
    cluster.delete("StatefulSet", name, cluster.objects["StatefulSet", name]["metadata"]["uid"])
    cluster.settle()
    assert budget(cluster)["metadata"]["uid"] == before


def test_a_revision_that_comes_up_does_not_use_up_the_budget_of_the_one_that_serves() -> None:
    cluster = several()
    serving = cluster.names("StatefulSet")
    change(cluster, image="runtime:2")
    cluster.settle()
    coming = [name for name in cluster.names("StatefulSet") if name not in serving]
    for name in coming:
        cluster.run_ranks(name, ready=False)
    assert evict(cluster, f"{serving[0]}-0")
    cluster.run_ranks(serving[0])
    for name in coming:
        cluster.run_ranks(name)
        cluster.reports[name] = group_report(name)
    cluster.settle()
    assert {p["metadata"]["name"].rpartition("-")[0] for p in counted(cluster)} == set(coming)


def test_its_size_follows_that_of_the_groups() -> None:
    assert budget(several())["spec"]["maxUnavailable"] == 2
    wide = ready(ModelBuilder().with_spec(replicas=2).with_workers(gpusPerPod=2))
    assert budget(wide)["spec"]["maxUnavailable"] == 1
