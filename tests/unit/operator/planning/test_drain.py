"""A former revision goes when the Service sends nothing to it any more, and not before."""

from __future__ import annotations

from dataclasses import replace

from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.drain import asks
from tests.builders.operator import SETTINGS, ModelBuilder, group_report
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import change, ready


def pods_of(cluster: SimulatedCluster, group: str) -> set[str]:
    return {name for name in cluster.names("Pod") if name.startswith(f"{group}-")}


def surging(replicas: int = 1) -> tuple[SimulatedCluster, list[str], list[str]]:
    """A model whose new revision comes up beside the old, and the names of both's groups."""
    cluster = ready(ModelBuilder().with_spec(replicas=replicas))
    former = cluster.names("StatefulSet")
    cluster.sent_to = {pod for group in former for pod in pods_of(cluster, group)}
    change(cluster, image="runtime:2")
    cluster.settle()
    return cluster, former, [n for n in cluster.names("StatefulSet") if n not in former]


def switched(replicas: int = 1) -> tuple[SimulatedCluster, list[str], list[str]]:
    """The same, after the new revision was ready: addresses are those of the old still."""
    cluster, former, new = surging(replicas)
    for group in new:
        cluster.run_ranks(group)
        cluster.reports[group] = group_report(group)
    cluster.settle()
    return cluster, former, new


def selected(cluster: SimulatedCluster) -> str:
    revision: str = cluster.objects["Service", "tiny"]["spec"]["selector"][labels.REVISION]
    return revision


def test_groups_stay_while_the_service_sends_to_them() -> None:
    cluster, former, new = switched()
    assert selected(cluster) == cluster.model.status.update_revision
    assert set(cluster.names("StatefulSet")) == {*former, *new}
    assert set(cluster.names("Service")) == {"tiny", *former, *new}


def test_who_waits_for_addresses_looks_again_without_an_event() -> None:
    cluster, _, _ = switched()
    assert cluster.step().requeue_after == SETTINGS.poll_seconds


def test_groups_go_when_the_service_has_left_them() -> None:
    cluster, _, new = switched()
    cluster.sent_to = pods_of(cluster, new[0])
    cluster.settle()
    assert cluster.names("StatefulSet") == new
    assert cluster.names("Service") == sorted(["tiny", *new])


def test_each_group_goes_for_itself() -> None:
    cluster, former, new = switched(replicas=2)
    cluster.sent_to = pods_of(cluster, former[0]) | pods_of(cluster, new[0])
    cluster.settle()
    assert cluster.names("StatefulSet") == sorted([former[0], *new])


def test_a_model_that_is_suspended_waits_for_no_address() -> None:
    cluster, _, new = switched()
    cluster.builder.with_spec(suspend=True).at_generation(cluster.model.generation + 1)
    cluster.settle()
    assert cluster.names("StatefulSet") == new


def test_a_revision_that_never_served_goes_at_once() -> None:
    cluster, former, abandoned = surging()
    change(cluster, image="runtime:3")
    cluster.settle()
    there = set(cluster.names("StatefulSet"))
    assert len(there) == 2
    assert there.isdisjoint(abandoned)
    assert there.issuperset(former)


def test_addresses_are_asked_for_only_while_something_waits_for_them() -> None:
    cluster, _, new = surging()
    cluster.rank_pod(new[0], 0).running(ready=True)
    assert not asks(cluster.model, cluster.observed())
    cluster, _, new = switched()
    assert asks(cluster.model, cluster.observed())
    cluster.sent_to = pods_of(cluster, new[0])
    cluster.settle()
    assert not asks(cluster.model, cluster.observed())


def test_nothing_is_asked_without_a_service_or_for_a_model_that_goes() -> None:
    cluster, _, _ = switched()
    seen = cluster.observed()
    assert not asks(cluster.model, replace(seen, services=()))
    cluster.builder.body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not asks(cluster.model, seen)
