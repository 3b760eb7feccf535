"""Whether an operator of given settings can work on a cluster, and whether one does.

What `helm test` runs, with the operator's own account: it reads and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.resources import LEASES
from shardedmodel_operator.errors import ClusterUnavailable
from shardedmodel_operator.planning.labels import MANAGED_BY, MANAGER
from shardedmodel_operator.reconciling.leadership import LEASE_SECONDS, RENEW_SECONDS, LeaseName
from shardedmodel_operator.settings import Settings

PATIENCE_SECONDS = 60.0
"""How long an operator may take until it leads: its image may be pulled just now."""


def check(
    settings: Settings, cluster: Cluster, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """Check, and say line by line what was found good.

    Args:
        settings: those of the operator.
        cluster: as its account sees it.
        sleep: waits so many seconds.

    Raises:
        ClusterUnavailable: no operator leads, or the one that did renews no more.
        ClusterError: a kind is not served or may not be listed.
    """
    served: Sequence[str | None] = settings.namespaces or (None,)
    where = ", ".join(settings.namespaces) or "all namespaces"
    for resource in cluster.watched():
        for namespace in served:
            next(cluster.list_pages(resource, namespace, f"{MANAGED_BY}={MANAGER}"))
        yield f"{resource.plural}: may be listed in {where}"
    if settings.lease:
        yield _holder(LeaseName(*settings.lease.split("/")), cluster, sleep)


def _holder(lease: LeaseName, cluster: Cluster, sleep: Callable[[float], None]) -> str:
    """Wait for a Lease that has a holder and is renewed."""
    first = ""
    for _ in range(round((PATIENCE_SECONDS + LEASE_SECONDS) / RENEW_SECONDS)):
        found = cluster.read(LEASES, lease.namespace, lease.name)
        if found is not None and (holder := found["spec"].get("holderIdentity")):
            version: str = found["metadata"]["resourceVersion"]
            if version != (first := first or version):
                return f"{holder} leads by the Lease {lease.namespace}/{lease.name}"
        sleep(RENEW_SECONDS)
    raise ClusterUnavailable(
        f"no operator renews the Lease {lease.namespace}/{lease.name}; see its pods and their log"
    )
