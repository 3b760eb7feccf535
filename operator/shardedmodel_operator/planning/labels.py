"""Labels of what the operator makes: it finds its own objects by them, after any restart.

The keys are part of the product's interface; people select by them.
"""

from __future__ import annotations

MODEL = "shardedmodel.dev/model"
"""Name of the ShardedModel. On every object and pod."""
ROLE = "shardedmodel.dev/role"
"""``shard`` on the pre-shard Job and its pod, ``rank`` on rank pods, their StatefulSet and headless
Service, ``endpoint`` on the model's own Service and its PodDisruptionBudget, ``cleanup`` on the Job
that deletes a layout."""
REQUEST = "shardedmodel.dev/request"
"""Request hash that a Job works on."""
ATTEMPT = "shardedmodel.dev/attempt"
"""Number of a Job among those of its request, from 1."""
TEMPLATE = "shardedmodel.dev/template"
"""On a Job: hash of its pod template. One that cannot run is replaced when the template changes."""
REVISION = "shardedmodel.dev/revision"
"""Revision of a rank pod; the model's Service selects by it."""
GROUP = "shardedmodel.dev/group"
"""Index of a replica group."""
LAYOUT = "shardedmodel.dev/layout"
"""On a StatefulSet: hash of the address of the layout that its ranks load, which is not deleted
while it is there."""
RANKS_PER_POD = "shardedmodel.dev/ranks-per-pod"
"""On a StatefulSet: how many ranks each of its pods holds."""
CONTENT = "shardedmodel.dev/content"
"""On a NetworkPolicy or PodDisruptionBudget: hash of what it was made with. It is applied again
when another content is wanted."""
NAME = "app.kubernetes.io/name"
"""On the operator's own pods, with the value ``MANAGER``: whom policies let pull reports."""
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "shardedmodel-operator"
"""Value of ``MANAGED_BY``, and the field manager of server-side apply."""

ROLE_SHARD = "shard"
ROLE_RANK = "rank"
ROLE_ENDPOINT = "endpoint"
ROLE_CLEANUP = "cleanup"


def common(model: str, role: str) -> dict[str, str]:
    """Labels of every object that belongs to a model."""
    return {MANAGED_BY: MANAGER, MODEL: model, ROLE: role}


def group_selector(model: str, revision: str, group: int) -> dict[str, str]:
    """What selects the pods of one group."""
    return {MODEL: model, ROLE: ROLE_RANK, REVISION: revision, GROUP: str(group)}


def scale_selector(model: str) -> str:
    """Serialised selector of all rank pods of a model, for the scale subresource."""
    return f"{MODEL}={model},{ROLE}={ROLE_RANK}"
