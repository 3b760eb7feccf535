"""A cluster that has settled, made by hand: what a soak's verdict is tried on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shardedmodel_operator.api.resource import ShardedModel
from tests.soak.choices import Choice, manifest
from tests.soak.state import State

REVISION = "5ca1ab1e"
FORMER = "f0e4a7e1"
REQUEST = "4e0e57"


def accepted(resource: dict[str, Any]) -> ShardedModel:
    """The resource as the operator understands it."""
    metadata = {**resource["metadata"], "namespace": "n", "uid": "u", "generation": 1}
    return ShardedModel.from_object({**resource, "metadata": metadata})


def owned(name: str, owner: str, **labels: str) -> dict[str, Any]:
    """An object that ``owner`` (a uid) controls; its own uid is its name."""
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "labels": {f"shardedmodel.dev/{key}": value for key, value in labels.items()},
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "spec": {},
    }


def set_condition(item: dict[str, Any], kind: str, status: str, reason: str = "") -> None:
    """Add a condition."""
    conditions = item.setdefault("status", {}).setdefault("conditions", [])
    conditions.append({"type": kind, "status": status, "reason": reason})


@dataclass
class Scene:
    """One model and its objects; ``ready`` and ``stalled`` fill it in."""

    choice: Choice = field(default_factory=Choice)
    objects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = manifest("m", self.choice)
        model["metadata"] |= {"uid": "model", "generation": 3}
        if self.choice.passing:
            model["metadata"]["finalizers"] = ["shardedmodel.dev/layout"]
        model["status"] = {
            "observedGeneration": 3,
            "currentRevision": REVISION,
            "updateRevision": REVISION,
            "readyReplicas": self.choice.replicas,
            "sharding": {"requestHash": REQUEST, "layoutHash": "1a70"},
        }
        self.objects["ShardedModel"] = [model]

    @property
    def model(self) -> dict[str, Any]:
        """The model."""
        return self.objects["ShardedModel"][0]

    @property
    def state(self) -> State:
        """All of it as a state."""
        return State(self.objects)

    def add(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        """Add an object; returns it."""
        self.objects.setdefault(kind, []).append(item)
        return item

    def add_group(self, index: int, revision: str = REVISION, pods: int | None = None) -> None:
        """Add a group with its headless Service and ready pods."""
        count = self.choice.tensor if pods is None else pods
        name = f"m-{revision}-{index}"
        labels = {"revision": revision, "group": str(index), "role": "rank"}
        group = self.add("StatefulSet", owned(name, "model", **labels))
        group["spec"], group["status"] = {"replicas": count}, {"readyReplicas": count}
        self.add("Service", owned(f"{name}-headless", "model", **labels))
        for ordinal in range(count):
            pod = self.add("Pod", owned(f"{name}-{ordinal}", name, **labels))
            set_condition(pod, "Ready", "True")

    def add_endpoint(self, revision: str = REVISION) -> dict[str, Any]:
        """Add the model's own Service."""
        service = self.add("Service", owned("m", "model", role="endpoint"))
        service["spec"] = {"selector": {"shardedmodel.dev/revision": revision}}
        return service

    def add_job(self, request: str = REQUEST, outcome: str = "Complete") -> dict[str, Any]:
        """Add a Job, which has ended with ``outcome``; empty: it has not."""
        number = len(self.objects.get("Job", ()))
        job = self.add("Job", owned(f"job-{number}", "model", role="shard", request=request))
        if outcome:
            set_condition(job, outcome, "True")
        return job


def ready(choice: Choice | None = None) -> Scene:
    """A model that is Ready, with all that belongs to it."""
    scene = Scene(choice or Choice(tensor=2, replicas=2))
    for index in range(scene.choice.replicas):
        scene.add_group(index)
    scene.add_endpoint()
    scene.add_job()
    set_condition(
        scene.model, "Ready", "True", "Ready" if scene.choice.replicas else "ScaledToZero"
    )
    return scene


def suspended() -> Scene:
    """A model that is suspended: its group waits without pods."""
    scene = Scene(Choice(suspend=True))
    scene.add_group(0, pods=0)
    scene.add_endpoint()
    set_condition(scene.model, "Ready", "False", "Suspended")
    return scene


def stalled(choice: Choice, reason: str) -> Scene:
    """A model that waits for somebody, while its former revision serves."""
    scene = Scene(choice)
    scene.model["status"] |= {"currentRevision": FORMER, "updateRevision": ""}
    scene.add_group(0, FORMER)
    scene.add_endpoint(FORMER)
    scene.add_job(outcome="Failed")
    set_condition(scene.model, "Ready", "False", reason)
    set_condition(scene.model, "Stalled", "True", reason)
    return scene
