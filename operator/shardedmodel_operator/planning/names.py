"""Names of what the operator makes: they follow from content, so a lost memory finds it again."""

from __future__ import annotations

import hashlib

MAX_JOB_NAME = 63
"""A Job's name becomes the label ``job-name`` of its pods (label values: 63)."""
MAX_STATEFUL_SET_NAME = 52
"""A StatefulSet's name and an 11-character suffix become the label ``controller-revision-hash``."""
SHORT_HASH = 8
"""Digits of a hash in a name: enough among the few revisions of one model."""


def job_name(model: str, request: str, attempt: int) -> str:
    """Name of one attempt at pre-sharding."""
    return _fitting(model, f"-shard-{request[:SHORT_HASH]}-{attempt}", MAX_JOB_NAME)


def cleanup_name(model: str, layout: str) -> str:
    """Name of the Job that deletes a layout."""
    return _fitting(model, f"-delete-{layout[:SHORT_HASH]}", MAX_JOB_NAME)


def group_name(model: str, revision: str, group: int) -> str:
    """Name of a group's StatefulSet and of its headless Service."""
    return _fitting(model, f"-{revision[:SHORT_HASH]}-{group}", MAX_STATEFUL_SET_NAME)


def policy_name(model: str, pods: str) -> str:
    """Name of the NetworkPolicy of a model's ``ranks`` or ``jobs``."""
    return f"{model}-{pods}"


def _fitting(model: str, suffix: str, limit: int) -> str:
    """Shorten a long model name; a hash of the whole keeps two such models apart."""
    if len(model) + len(suffix) <= limit:
        return model + suffix
    digest = hashlib.sha256(model.encode()).hexdigest()[:SHORT_HASH]
    kept = model[: limit - len(suffix) - len(digest) - 1].rstrip("-")
    return f"{kept}-{digest}{suffix}"
