"""The node's cache: where it lies, what it may not be, and what is told when it fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shardedmodel_operator.planning.settings import PlanSettings
from tests.builders.operator import SETTINGS, ModelBuilder, group_report
from tests.simulated_cluster import SimulatedCluster
from tests.unit.operator.planning.steps import event_reasons, message, ready, reason, sharded

FULL = "cache: /var/cache/shardedmodel: No space left on device; loading goes on without it"


def pod_of(cluster: SimulatedCluster) -> dict[str, Any]:
    [name] = cluster.names("StatefulSet")
    spec: dict[str, Any] = cluster.objects["StatefulSet", name]["spec"]["template"]["spec"]
    return spec


def cached(**fields: str) -> ModelBuilder:
    return ModelBuilder().with_workers(cache={"size": "2Gi", **fields})


@pytest.mark.parametrize(
    ("fields", "volume"),
    [
        ({}, {"emptyDir": {}}),
        ({"claimName": "fast"}, {"persistentVolumeClaim": {"claimName": "fast"}}),
    ],
)
def test_ranks_find_their_cache_where_it_was_asked_for(
    fields: dict[str, str], volume: dict[str, Any]
) -> None:
    pod = pod_of(sharded(cached(**fields)))
    container = pod["containers"][0]
    assert {"name": "cache", **volume} in pod["volumes"]
    assert {"name": "cache", "mountPath": "/var/cache/shardedmodel"} in container["volumeMounts"]
    words = " ".join(container["args"])
    assert f"--cache /var/cache/shardedmodel --cache-bytes {2 * 2**30}" in words


def test_without_a_cache_there_is_none() -> None:
    pod = pod_of(sharded())
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp", "shm"]
    assert "--cache" not in pod["containers"][0]["args"]


def allowing(*paths: str) -> PlanSettings:
    return replace(SETTINGS, cache_host_paths=paths)


@pytest.mark.parametrize("path", ["/var/cache/models", "/var/cache/models/llama"])
def test_a_folder_of_the_node_that_the_admin_allows_is_used(path: str) -> None:
    cluster = sharded(cached(hostPath=path), allowing("/var/cache/models"))
    volume = {"name": "cache", "hostPath": {"path": path, "type": "Directory"}}
    assert volume in pod_of(cluster)["volumes"]


@pytest.mark.parametrize("path", ["/etc", "/var/cache/models-of-others", "/var/cache"])
def test_another_folder_of_the_node_is_refused_by_name(path: str) -> None:
    cluster = SimulatedCluster(cached(hostPath=path), settings=allowing("/var/cache/models"))
    cluster.settle()
    assert (reason(cluster), cluster.objects) == ("InvalidSpec", {})
    assert f"spec.workers.cache.hostPath: {path!r} is not below a path" in message(cluster)


def test_where_nothing_is_allowed_the_message_says_whom_to_ask() -> None:
    cluster = SimulatedCluster(cached(hostPath="/models"))
    cluster.settle()
    assert reason(cluster) == "InvalidSpec"
    assert "SHARDEDMODEL_CACHE_HOST_PATHS" in message(cluster)


def test_a_cache_that_fails_is_told_once_and_does_no_harm() -> None:
    cluster = ready(cached())
    [name] = cluster.names("StatefulSet")
    report = group_report(name)
    ranks = [rank.model_copy(update={"message": FULL}) for rank in report.ranks]
    cluster.reports[name] = report.model_copy(update={"ranks": ranks})
    cluster.pass_time(600)
    cluster.settle()
    cluster.settle()
    assert event_reasons(cluster).count("CacheFailed") == 1
    [told] = [event for event in cluster.events if event.reason == "CacheFailed"]
    assert "No space left on device" in told.message
    assert "1 more ranks" in told.message
    assert cluster.model.status.holds("Ready")
