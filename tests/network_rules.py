"""What NetworkPolicies let pass, by the rules of Kubernetes' documentation."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class End:
    """A pod, by its labels, or an address outside the cluster."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "models"
    address: str = ""


def may_connect(
    policies: Iterable[Json], source: End, target: End, port: int, protocol: str = "TCP"
) -> bool:
    """Whether ``source`` reaches a port of ``target``: both must agree."""
    policies = list(policies)
    leaves = _allowed(policies, "Egress", source, target, port, protocol)
    return leaves and _allowed(policies, "Ingress", target, source, port, protocol)


def _allowed(
    policies: list[Json], way: str, pod: End, other: End, port: int, protocol: str
) -> bool:
    """Whether the policies that select ``pod`` allow it; without one that does, everything may."""
    selecting = [p for p in policies if _selects(p, pod) and way in p["spec"]["policyTypes"]]
    rules = [rule for p in selecting for rule in p["spec"].get(way.lower(), [])]
    peers = "from" if way == "Ingress" else "to"
    namespace = pod.namespace
    passing = any(
        _names_port(rule, port, protocol)
        and (peers not in rule or any(_is(peer, other, namespace) for peer in rule[peers]))
        for rule in rules
    )
    return passing or not selecting


def _selects(policy: Json, pod: End) -> bool:
    if pod.address or policy["metadata"]["namespace"] != pod.namespace:
        return False
    return _matches(policy["spec"]["podSelector"], pod.labels)


def _names_port(rule: Json, port: int, protocol: str) -> bool:
    return "ports" not in rule or {"port": port, "protocol": protocol} in rule["ports"]


def _is(peer: Json, end: End, namespace: str) -> bool:
    if "ipBlock" in peer:
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return bool(end.address) and ipaddress.ip_address(end.address) in network
    if end.address:
        return False
    if "namespaceSelector" in peer:
        named = {"kubernetes.io/metadata.name": end.namespace}
        here = _matches(peer["namespaceSelector"], named)
    else:
        here = end.namespace == namespace
    return here and _matches(peer.get("podSelector", {}), end.labels)


def _matches(selector: Json, labels: Mapping[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        # Of the operators only the one that is used.
        {"In": labels.get(each["key"]) in each["values"]}[each["operator"]]
        for each in selector.get("matchExpressions", [])
    )
