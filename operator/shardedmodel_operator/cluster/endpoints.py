"""Where a Service sends to now."""

from __future__ import annotations

from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.resources import ENDPOINTS


def read_sent_to(cluster: Cluster, namespace: str, service: str) -> frozenset[str]:
    """Names of the pods whose addresses the Service has; empty while it has none.

    From ``Endpoints``, which every server keeps: 1.20 has EndpointSlices only as a beta that 1.25
    removed. Of more than 1,000 addresses it names 1,000 (Kubernetes, "Over-capacity endpoints").

    Raises:
        ClusterError: it cannot be read.
    """
    found = cluster.read(ENDPOINTS, namespace, service) or {}
    return frozenset(
        address["targetRef"]["name"]
        for subset in found.get("subsets") or []
        for address in subset.get("addresses") or []
        if address.get("targetRef")
    )
