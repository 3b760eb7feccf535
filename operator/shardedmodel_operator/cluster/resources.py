"""The kinds that the operator handles and where the API server serves them.

A fixed table instead of discovery: the operator's RBAC names the same kinds, and a call that
discovers first costs two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]
"""A Kubernetes object as JSON; never changed in place, it may be shared with the cache."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One namespaced kind."""

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """Version without the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """URL path of the collection, of one object, or of its subresource.

        Args:
            namespace: None addresses the collection of all namespaces.
            name: empty addresses the collection.
            subresource: such as ``status``.
        """
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace is not None else ""
        parts = [root + scope, self.plural, name, subresource]
        return "/".join(part for part in parts if part)


MODELS = Resource("shardedmodel.dev/v1alpha1", "ShardedModel", "shardedmodels")
JOBS = Resource("batch/v1", "Job", "jobs")
STATEFULSETS = Resource("apps/v1", "StatefulSet", "statefulsets")
SERVICES = Resource("v1", "Service", "services")
PODS = Resource("v1", "Pod", "pods")
EVENTS = Resource("v1", "Event", "events")
POLICIES = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
ENDPOINTS = Resource("v1", "Endpoints", "endpoints")
BUDGETS = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")

CHILDREN = (JOBS, STATEFULSETS, SERVICES, PODS, POLICIES)
"""What belongs to a model; watched under the label that marks what the operator manages."""

WATCHED = (MODELS, *CHILDREN)
"""What every server has that the operator runs on."""

OPTIONAL = (BUDGETS,)
"""Children that are made and watched where the server has them: ``policy/v1`` came with 1.21."""

_BY_KIND = {(r.api_version, r.kind): r for r in (*WATCHED, *OPTIONAL, EVENTS)}


def resource_of(api_version: str, kind: str) -> Resource:
    """Find a resource by an object's ``apiVersion`` and ``kind``.

    Raises:
        KeyError: the operator does not handle this kind.
    """
    return _BY_KIND[api_version, kind]
