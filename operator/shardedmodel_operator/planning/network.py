"""The NetworkPolicies of a model: its ranks talk to each other, and all its pods to what they need.

Stores are named by URL, which no policy can select, so they are let through by their port.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from shardedmodel_operator.api.network import NetworkPolicy
from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.api.stores import Store
from shardedmodel_operator.planning import labels
from shardedmodel_operator.planning.guards import guard
from shardedmodel_operator.planning.names import policy_name
from shardedmodel_runtime.report import HTTP_PORT

Json = dict[str, Any]

DNS_PORT = 53
"""Ranks find rank 0, and all pods the stores, by name."""
HTTPS_PORT = 443
"""Of AWS' S3, and of the services that exchange a ServiceAccount's token for credentials."""
METADATA = "169.254.0.0/16"
"""Link-local addresses, where nodes of clouds give out a ServiceAccount's credentials."""
METADATA_PORTS = (80, 988)
"""Of AWS' (instance metadata, Pod Identity) and of GKE's metadata servers."""
PORT_PATTERN = re.compile(r"^https?://(?:\[[^\]]*\]|[^/:]*):([0-9]+)")
"""The port of a URL that names one."""


def network_policies(model: ShardedModel, spec: ShardedModelSpec) -> list[Json]:
    """Make the policies that a spec asks for: one for the ranks, one for the Jobs."""
    terms = spec.network_policy
    if terms is None:
        return []
    ranks = {"matchLabels": {labels.MODEL: model.name, labels.ROLE: labels.ROLE_RANK}}
    jobs = {
        "matchLabels": {labels.MODEL: model.name},
        "matchExpressions": [
            {
                "key": labels.ROLE,
                "operator": "In",
                "values": [labels.ROLE_SHARD, labels.ROLE_CLEANUP],
            }
        ],
    }
    peers = [{"podSelector": ranks}]
    return [
        _policy(
            model,
            "ranks",
            labels.ROLE_RANK,
            podSelector=ranks,
            # All ports: gloo and NCCL take free ones.
            ingress=[{"from": peers}, _ingress(terms, _rank_ports(spec))],
            egress=[{"to": peers}, *_egress(terms, [spec.storage])],
        ),
        _policy(
            model,
            "jobs",
            labels.ROLE_SHARD,
            podSelector=jobs,
            ingress=[_ingress(terms, [_port(HTTP_PORT)])],
            egress=_egress(terms, [spec.source, spec.storage]),
        ),
    ]


def _policy(model: ShardedModel, pods: str, role: str, **spec: Any) -> Json:
    told = {"policyTypes": ["Ingress", "Egress"], **spec}
    return guard(model, "NetworkPolicy", policy_name(model.name, pods), role, told)


def _ingress(terms: NetworkPolicy, ports: list[Json]) -> Json:
    if not terms.clients:
        return {"ports": ports}
    # No label of its namespace is there on every server, so it may be in any.
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {labels.NAME: labels.MANAGER}},
    }
    return {"ports": ports, "from": [operator, *terms.clients]}


def _rank_ports(spec: ShardedModelSpec) -> list[Json]:
    """The port of reports and readiness, and those that the user's template declares."""
    containers = spec.workers.template.get("spec", {}).get("containers", [])
    declared = [port for each in containers for port in each.get("ports", [])]
    return [
        _port(HTTP_PORT),
        *(_port(port["containerPort"], port.get("protocol", "TCP")) for port in declared),
    ]


def _egress(terms: NetworkPolicy, stores: Iterable[Store]) -> list[Json]:
    remote = [store for store in stores if store.uri.startswith("s3://")]
    ports = {store_port(store.endpoint_url) for store in remote}
    rules: list[Json] = [{"ports": [_port(DNS_PORT, "UDP"), _port(DNS_PORT)]}]
    if any(store.credentials_secret_ref is None for store in remote):
        ports.add(HTTPS_PORT)
        metadata = [_port(port) for port in METADATA_PORTS]
        rules.append({"ports": metadata, "to": [{"ipBlock": {"cidr": METADATA}}]})
    if ports:
        rules.append({"ports": [_port(port) for port in sorted(ports)]})
    return [*rules, *terms.egress]


def store_port(endpoint_url: str) -> int:
    """Port of an S3 server by its URL; an empty one is AWS."""
    named = PORT_PATTERN.match(endpoint_url)
    if named:
        return int(named.group(1))
    return 80 if endpoint_url.startswith("http://") else HTTPS_PORT


def _port(port: int, protocol: str = "TCP") -> Json:
    return {"port": port, "protocol": protocol}
