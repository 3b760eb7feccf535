"""``spec.networkPolicy``: whom the pods of a model may talk to."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from shardedmodel_operator.api.base import ApiModel

MAX_RULES = 32
"""Rules of one kind: more are a list of addresses, which belongs into a policy of its own."""

Rule = Annotated[
    dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
]
"""A part of a NetworkPolicy as Kubernetes has it; the API server checks it."""


class NetworkPolicy(ApiModel):
    """What may pass beside the model's own traffic."""

    clients: Annotated[list[Rule], Field(max_length=MAX_RULES)] = []
    """Who may call the pods' ports, each a `NetworkPolicyPeer`; none: everybody. The operator may
    always. Scrapers of metrics are clients too."""
    egress: Annotated[list[Rule], Field(max_length=MAX_RULES)] = []
    """What the pods may reach beside DNS, the stores and each other, each a
    `NetworkPolicyEgressRule`: a proxy, what your entrypoint calls, or the pods' port of a store
    whose Service has another."""
