from __future__ import annotations

from typing import Any

from tests.devcluster import dns


def item(name: str, **rest: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": name}, **rest}


def test_a_service_has_its_cluster_address_and_its_endpoints_have_no_name() -> None:
    service = item("web", spec={"clusterIP": "198.18.8.7"})
    endpoints = item("web", subsets=[{"addresses": [{"ip": "198.18.4.2", "hostname": "x"}]}])
    assert dns.hosts([service], [endpoints]) == "198.18.8.7 web.ns.svc.cluster.local\n"


def test_a_headless_service_names_each_ready_endpoint_and_all_of_them() -> None:
    service = item("ranks", spec={"clusterIP": "None"})
    endpoints = item(
        "ranks",
        subsets=[
            {
                "addresses": [{"ip": "198.18.4.2", "hostname": "m-0"}, {"ip": "198.18.4.4"}],
                "notReadyAddresses": [{"ip": "198.18.4.3", "hostname": "m-1"}],
            }
        ],
    )
    assert dns.hosts([service], [endpoints]) == (
        "198.18.4.2 m-0.ranks.ns.svc.cluster.local\n"
        "198.18.4.2 ranks.ns.svc.cluster.local\n"
        "198.18.4.4 ranks.ns.svc.cluster.local\n"
    )


def test_services_without_address_or_endpoints_have_no_names() -> None:
    services = [
        item("external", spec={"externalName": "far.example"}),
        item("empty", spec={"clusterIP": "None"}),
    ]
    endpoints = [item("empty"), item("orphan", subsets=[{"addresses": [{"ip": "198.18.4.9"}]}])]
    assert dns.hosts(services, endpoints) == ""
