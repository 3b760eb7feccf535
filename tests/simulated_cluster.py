"""A cluster for tests of the planner: it keeps what is applied and plays the controllers.

It knows as much of Kubernetes as the planner relies on, and no more.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shardedmodel_operator.api.resource import FINALIZER, ShardedModel
from shardedmodel_operator.planning.objects import (
    Job,
    Meta,
    Pod,
    Service,
    StatefulSet,
)
from shardedmodel_operator.planning.observed import Observed
from shardedmodel_operator.planning.plan import plan
from shardedmodel_operator.planning.result import EventDraft, Plan
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_runtime.report import GroupReport, ShardProgress
from tests.builders.operator import NOW, SETTINGS, ModelBuilder, PodBuilder, seconds, stamp

MAX_ROUNDS = 12
"""Plans until a fixed point; a planner that needs more is going in circles."""


@dataclass
class SimulatedCluster:
    """Objects by (kind, name); ``now`` moves only when a test moves it."""

    builder: ModelBuilder = field(default_factory=ModelBuilder)
    now: datetime = NOW
    settings: PlanSettings = SETTINGS
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    reports: dict[str, GroupReport] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    """What the controllers of Jobs and StatefulSets were told, by the objects' names."""
    sent_to: set[str] = field(default_factory=set)
    """Pods whose addresses the model's Service has."""
    neighbours: list[ModelBuilder] = field(default_factory=list)
    neighbouring_sets: list[tuple[str, Meta]] = field(default_factory=list)
    progress: dict[str, ShardProgress] = field(default_factory=dict)
    events: list[EventDraft] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    _uids: int = 0

    @property
    def model(self) -> ShardedModel:
        """The model as the API server holds it."""
        return self.builder.build()

    def observed(self) -> Observed:
        """What the operator sees."""
        return Observed(
            jobs=tuple(Job.from_object(o) for o in self.of_kind("Job")),
            pods=tuple(Pod.from_object(o) for o in self.of_kind("Pod")),
            stateful_sets=tuple(StatefulSet.from_object(o) for o in self.of_kind("StatefulSet")),
            services=tuple(Service.from_object(o) for o in self.of_kind("Service")),
            network_policies=tuple(Meta.from_object(o) for o in self.of_kind("NetworkPolicy")),
            disruption_budgets=tuple(
                Meta.from_object(o) for o in self.of_kind("PodDisruptionBudget")
            ),
            shard_progress=self.progress,
            group_reports=self.reports,
            refusals={
                self.objects[kind, name]["metadata"]["uid"]: told
                for name, told in self.refusals.items()
                for kind in ("Job", "StatefulSet")
                if (kind, name) in self.objects
            },
            sent_to=frozenset(self.sent_to),
            neighbours=tuple(builder.build() for builder in self.neighbours),
            neighbouring_sets=tuple(self.neighbouring_sets),
        )

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind, by name."""
        return [o for (k, _), o in sorted(self.objects.items()) if k == kind]

    def names(self, kind: str) -> list[str]:
        """Names of all objects of a kind."""
        return [o["metadata"]["name"] for o in self.of_kind(kind)]

    def step(self) -> Plan:
        """Plan once and carry it out, as the executor does."""
        decided = plan(self.model, self.observed(), self.settings, self.now)
        if decided.finalizer is not None:
            self.set_finalizer(FINALIZER, decided.finalizer)
        for manifest in decided.apply:
            self.apply(manifest)
        for ref in decided.delete:
            self.delete(ref.kind, ref.name, ref.uid)
        # Through JSON, as the API server keeps it.
        self.builder.body["status"] = json.loads(json.dumps(decided.status.to_object()))
        self.events += decided.events
        self.plans.append(decided)
        return decided

    def settle(self) -> Plan:
        """Plan until nothing is left to do."""
        for _ in range(MAX_ROUNDS):
            before = self.model.status
            decided = self.step()
            if not decided.apply and not decided.delete and decided.status == before:
                return decided
        raise AssertionError(f"no fixed point after {MAX_ROUNDS} plans")

    def pass_time(self, count: float) -> None:
        """Move the clock by seconds."""
        self.now += seconds(count)

    def put_pod(self, pod: PodBuilder) -> None:
        """Add or replace a pod."""
        self.objects["Pod", pod.body["metadata"]["name"]] = pod.body

    def job_pod(self, attempt: int = 1, worker: int = 0, request: str = "") -> PodBuilder:
        """A new pod of the Job of an attempt, in place of the one that the worker has."""
        job = next(
            o
            for o in self.of_kind("Job")
            if o["metadata"]["labels"]["shardedmodel.dev/attempt"] == str(attempt)
            and request in ("", o["metadata"]["labels"]["shardedmodel.dev/request"])
        )
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        pod = PodBuilder(f"{name}-x7k2{worker}", uid, "shard", job["metadata"]["labels"])
        self.put_pod(pod)
        return pod

    def end_job(
        self, kind: str, exit_code: int, message: str, attempt: int = 1, request: str = ""
    ) -> None:
        """Let an attempt end with a termination message."""
        pod = self.job_pod(attempt, request=request).ended(exit_code, message, at=self.now)
        pod.body["status"]["phase"] = "Failed" if exit_code else "Succeeded"
        owner = pod.body["metadata"]["ownerReferences"][0]["uid"]
        job = next(o for o in self.of_kind("Job") if o["metadata"]["uid"] == owner)
        job["status"] = {
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": stamp(self.now)}]
        }

    def rank_pod(self, group: str, ordinal: int) -> PodBuilder:
        """A new pod of a group, in place of the one it has."""
        owner = self.objects["StatefulSet", group]
        pod = PodBuilder(
            f"{group}-{ordinal}", owner["metadata"]["uid"], "rank", owner["metadata"]["labels"]
        )
        self.put_pod(pod)
        return pod

    def run_ranks(self, group: str, ready: bool = True) -> None:
        """Let all pods of a group run."""
        for ordinal in range(self.objects["StatefulSet", group]["spec"]["replicas"]):
            self.rank_pod(group, ordinal).running(ready, ip=f"10.1.0.{ordinal + 1}")

    def set_finalizer(self, finalizer: str, present: bool) -> None:
        """Add a finalizer to the model, or take it away."""
        self.builder.body["metadata"]["finalizers"] = [finalizer] if present else []

    @property
    def model_is_gone(self) -> bool:
        """Whether nothing keeps a model any more that was asked to go."""
        metadata = self.builder.body["metadata"]
        return "deletionTimestamp" in metadata and not metadata.get("finalizers")

    def collect_garbage(self) -> None:
        """Delete what belongs to a model that is gone."""
        if self.model_is_gone:
            self.objects.clear()

    def apply(self, manifest: dict[str, Any]) -> None:
        key = (manifest["kind"], manifest["metadata"]["name"])
        kept = self.objects.get(key)
        body = copy.deepcopy(manifest)
        if kept is None:
            self._uids += 1
            body["metadata"] |= {
                "uid": f"uid-{self._uids}",
                "creationTimestamp": stamp(self.now),
                "resourceVersion": "1",
            }
        else:
            body["metadata"] = kept["metadata"] | body["metadata"]
        self.objects[key] = body
        if manifest["kind"] == "StatefulSet":
            self._scale_down(body)

    def _scale_down(self, body: dict[str, Any]) -> None:
        for ordinal in range(body["spec"]["replicas"], 64):
            self.objects.pop(("Pod", f"{body['metadata']['name']}-{ordinal}"), None)

    def delete(self, kind: str, name: str, uid: str) -> None:
        body = self.objects.pop((kind, name))
        assert body["metadata"]["uid"] == uid
        for key, pod in list(self.objects.items()):
            owners = pod["metadata"].get("ownerReferences", [])
            if any(owner["uid"] == uid for owner in owners):
                del self.objects[key]
