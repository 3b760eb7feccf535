from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shardedmodel_operator.check import check
from shardedmodel_operator.cluster.resources import LEASES, WATCHED, Resource
from shardedmodel_operator.errors import ClusterAccessDenied, ClusterUnavailable
from shardedmodel_operator.settings import Settings


class FakeCluster:
    """Lists nothing, and gives prepared Leases, the last one for ever."""

    def __init__(self, *leases: tuple[str, str] | None, forbidden: str = "") -> None:
        self.leases = list(leases)
        self.forbidden = forbidden
        self.listed: list[tuple[str, str | None]] = []

    def watched(self) -> tuple[Resource, ...]:
        return WATCHED

    def list_pages(self, resource: Resource, namespace: str | None, _: str) -> Iterator[list[Any]]:
        if resource.plural == self.forbidden:
            raise ClusterAccessDenied(f"list {resource.plural}: forbidden", 403)
        self.listed.append((resource.plural, namespace))
        yield []

    def read(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        assert (resource, namespace, name) == (LEASES, "system", "operator")
        lease = self.leases.pop(0) if len(self.leases) > 1 else self.leases[0]
        if lease is None:
            return None
        holder, version = lease
        return {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": holder}}


def lines(cluster: FakeCluster, *namespaces: str, lease: str = "system/operator") -> list[str]:
    settings = Settings(runtime_image="runtime:1", namespaces=namespaces, lease=lease)
    return list(check(settings, cluster, sleep=lambda _: None))  # type: ignore[arg-type]


def test_a_lease_that_is_renewed_is_good() -> None:
    found = lines(FakeCluster(None, ("", "1"), ("me", "2"), ("me", "2"), ("me", "3")))
    assert found[-1] == "me leads by the Lease system/operator"


@pytest.mark.parametrize("lease", [None, ("", "1"), ("me", "2")])
def test_a_lease_that_nobody_renews_is_not(lease: tuple[str, str] | None) -> None:
    with pytest.raises(ClusterUnavailable, match="no operator renews the Lease system/operator"):
        lines(FakeCluster(lease))


def test_every_kind_is_looked_at_in_every_namespace() -> None:
    cluster = FakeCluster()
    assert len(lines(cluster, "team-a", "team-b", lease="")) == len(WATCHED)
    assert set(cluster.listed) == {
        (resource.plural, namespace) for resource in WATCHED for namespace in ("team-a", "team-b")
    }


def test_without_namespaces_all_are_looked_at() -> None:
    cluster = FakeCluster()
    assert "all namespaces" in lines(cluster, lease="")[0]
    assert {namespace for _, namespace in cluster.listed} == {None}


def test_a_missing_right_is_told() -> None:
    with pytest.raises(ClusterAccessDenied, match="list pods"):
        lines(FakeCluster(forbidden="pods"))
