"""What kstatus and Flux demand of a status, written down as they decide it."""

from __future__ import annotations

from typing import Literal

from shardedmodel_operator.api.status import Condition, ShardedModelStatus

Verdict = Literal["InProgress", "Failed", "Current"]


def kstatus(status: ShardedModelStatus, generation: int) -> Verdict:
    """Decide as kstatus does for a custom resource (cli-utils, ``status/generic.go``)."""
    if status.observed_generation != generation:
        return "InProgress"
    for condition in status.conditions:
        if condition.type == "Reconciling" and condition.status == "True":
            return "InProgress"
        if condition.type == "Stalled" and condition.status == "True":
            return "Failed"
    ready = status.condition("Ready")
    if ready is not None and ready.status != "True":
        return "InProgress"
    return "Current"


def flux_complaints(status: ShardedModelStatus, generation: int) -> list[str]:
    """What Flux's conditions checker (``runtime/conditions/check``) finds wrong."""
    found: dict[str, Condition] = {c.type: c for c in status.conditions}
    complaints = []
    ready = found.get("Ready")
    if ready is None:
        return ["Ready is absent"]
    progress = [kind for kind in ("Reconciling", "Stalled") if kind in found]
    if len(progress) == 2:
        complaints.append("Reconciling and Stalled together")
    complaints += [
        f"{kind} present but not True" for kind in progress if found[kind].status != "True"
    ]
    if progress and ready.status != "False":
        complaints.append("Reconciling or Stalled beside a Ready that is not False")
    if ready.status == "Unknown" and "Reconciling" not in found:
        complaints.append("Ready is Unknown without Reconciling")
    if ready.status == "True":
        generations = {c.observed_generation for c in status.conditions}
        if generations | {status.observed_generation} != {generation}:
            complaints.append("Ready speaks of another generation")
    return complaints
