"""The resource as the API server hands it over, parsed once into what the planner works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from shardedmodel_operator.api.problem import Problem
from shardedmodel_operator.api.spec import ShardedModelSpec
from shardedmodel_operator.api.status import ShardedModelStatus
from shardedmodel_operator.api.validation import parse_spec, semantic_problems
from shardedmodel_runtime.naming import request_hash

GROUP = "shardedmodel.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ShardedModel"
PLURAL = "shardedmodels"
SINGULAR = "shardedmodel"
SHORT_NAMES = ("shm",)
CATEGORIES = ("ai",)
FINALIZER = "shardedmodel.dev/layout"
"""On models with ``storage.retention: Delete`` alone: keeps them until their layout is deleted."""


@dataclass(frozen=True, slots=True)
class ShardedModel:
    """One ``ShardedModel``: who it is, what it asks for, and the status it carries.

    ``spec`` is None exactly when ``problems`` is not empty: nothing acts on half-understood input.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    deleted_at: str
    """When it was asked to go; empty while it is to stay."""
    finalized: bool
    """Whether it carries our finalizer."""
    spec: ShardedModelSpec | None
    problems: tuple[Problem, ...]
    status: ShardedModelStatus

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> ShardedModel:
        """Parse the API server's object; a spec that cannot be meant becomes ``problems``."""
        metadata = body["metadata"]
        spec, problems = parse_spec(body.get("spec") or {})
        if spec is not None:
            problems = semantic_problems(metadata["name"], spec)
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            deleted_at=metadata.get("deletionTimestamp", ""),
            finalized=FINALIZER in (metadata.get("finalizers") or []),
            spec=None if problems else spec,
            problems=tuple(problems),
            status=read_status(body.get("status") or {}),
        )

    @property
    def deleting(self) -> bool:
        """Whether it is on its way out."""
        return bool(self.deleted_at)


def read_status(status: Mapping[str, Any]) -> ShardedModelStatus:
    """Parse a status; one that another release wrote counts as lost, which must converge."""
    try:
        return ShardedModelStatus.model_validate(status)
    except ValidationError:
        return ShardedModelStatus()


def spec_request_hash(spec: ShardedModelSpec) -> str:
    """Name what ``spec`` asks the pre-shard Job for; credentials are no part of it."""
    return request_hash(
        source_uri=spec.source.uri,
        revision=spec.source.revision,
        endpoint_url=spec.source.endpoint_url,
        storage_uri=spec.storage.uri,
        storage_endpoint_url=spec.storage.endpoint_url,
        parallelism=spec.parallelism.degrees(),
        dtype=spec.sharding.dtype,
        rules=[rule.to_rule() for rule in spec.sharding.rules],
    )
