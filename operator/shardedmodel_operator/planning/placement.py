"""Where the pods of a group may run, beside what the user's template says."""

from __future__ import annotations

from typing import Any

from shardedmodel_operator.planning import labels


def exclusive_affinity(model: str, revision: str, group: int, topology_key: str) -> dict[str, Any]:
    """Keep a group together in one topology domain, and all other ranks out of it.

    A selector cannot say "not this group" at once, so that is said in three: no other model's
    ranks, no other revision's of this model, no other group's of this revision. The first pod of
    a group matches its own affinity, which the scheduler lets pass.
    """
    model_is = {labels.ROLE: labels.ROLE_RANK, labels.MODEL: model}
    revision_is = {**model_is, labels.REVISION: revision}
    return {
        "podAffinity": _required(
            topology_key, [_selector(labels.group_selector(model, revision, group))]
        ),
        "podAntiAffinity": _required(
            topology_key,
            [
                _selector({labels.ROLE: labels.ROLE_RANK}, (labels.MODEL, model)),
                _selector(model_is, (labels.REVISION, revision)),
                _selector(revision_is, (labels.GROUP, str(group))),
            ],
        ),
    }


def _required(topology_key: str, selectors: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": selector, "topologyKey": topology_key} for selector in selectors
        ]
    }


def _selector(same: dict[str, str], differs: tuple[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"matchLabels": same}
    if differs is not None:
        key, value = differs
        found["matchExpressions"] = [{"key": key, "operator": "NotIn", "values": [value]}]
    return found
