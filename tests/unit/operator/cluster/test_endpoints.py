from __future__ import annotations

from typing import Any

from shardedmodel_operator.cluster.endpoints import read_sent_to
from shardedmodel_operator.cluster.resources import Resource


def sent_to(body: dict[str, Any] | None) -> frozenset[str]:
    class Server:
        def read(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
            return body if (resource.kind, namespace, name) == ("Endpoints", "a", "llama") else None

    return read_sent_to(Server(), "a", "llama")  # type: ignore[arg-type]


def pod(name: str) -> dict[str, Any]:
    return {"ip": "192.0.2.1", "targetRef": {"kind": "Pod", "name": name}}


def test_pods_of_all_subsets_are_named() -> None:
    subsets = [{"addresses": [pod("m-0-0"), pod("m-0-1")]}, {"addresses": [pod("m-1-0")]}]
    assert sent_to({"subsets": subsets}) == {"m-0-0", "m-0-1", "m-1-0"}


def test_addresses_that_are_not_ready_do_not_count() -> None:
    assert sent_to({"subsets": [{"notReadyAddresses": [pod("m-0-0")]}]}) == frozenset()


def test_an_address_that_is_no_pods_is_left_out() -> None:
    assert sent_to({"subsets": [{"addresses": [{"ip": "192.0.2.1"}]}]}) == frozenset()


def test_nothing_is_sent_where_there_is_no_object() -> None:
    assert sent_to(None) == sent_to({}) == frozenset()
