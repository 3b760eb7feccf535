"""What is observed of one model: its objects, and what its pods report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from shardedmodel_operator.api.resource import ShardedModel
from shardedmodel_operator.planning.objects import Job, Meta, Pod, Service, StatefulSet
from shardedmodel_runtime.report import HTTP_PORT, REPORT_PATH, GroupReport, ShardProgress


@dataclass(frozen=True, slots=True)
class Observed:
    """All that is observed of one model (objects that carry its label), and pulled reports.

    ``shard_progress`` is keyed by the Job's pod, ``group_reports`` by StatefulSet name; what could
    not be pulled is absent. ``ReportTarget.key`` is the same name.
    """

    jobs: tuple[Job, ...] = ()
    pods: tuple[Pod, ...] = ()
    stateful_sets: tuple[StatefulSet, ...] = ()
    services: tuple[Service, ...] = ()
    network_policies: tuple[Meta, ...] = ()
    disruption_budgets: tuple[Meta, ...] = ()
    shard_progress: Mapping[str, ShardProgress] = field(default_factory=dict)
    group_reports: Mapping[str, GroupReport] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    """What Jobs and StatefulSets that lack pods were told when they tried, by their uid."""
    sent_to: frozenset[str] = frozenset()
    """Pods that the model's Service sends to, by name; told only while ``drain.asks``."""
    neighbours: tuple[ShardedModel, ...] = ()
    """Other models that keep layouts at the same address and have the same source, or the same
    layout. A model that is to stay is told only of those that go."""
    neighbouring_sets: tuple[tuple[str, Meta], ...] = ()
    """StatefulSets of other models, each with its namespace; told only to a model that goes."""

    def named(self) -> Iterator[tuple[str, Meta]]:
        """Everything that the operator makes itself, each with its kind."""
        yield from (("Job", job.meta) for job in self.jobs)
        yield from (("StatefulSet", each.meta) for each in self.stateful_sets)
        yield from (("Service", service.meta) for service in self.services)
        yield from (("NetworkPolicy", meta) for meta in self.network_policies)
        yield from (("PodDisruptionBudget", meta) for meta in self.disruption_budgets)

    def endpoint(self, model: ShardedModel) -> Service | None:
        """The Service of the model itself, unless it is on its way out."""
        own = (s for s in self.services if s.meta.owner_uid == model.uid and not s.meta.deleting)
        return next((s for s in own if s.meta.name == model.name), None)

    def pods_of(self, owner: Meta) -> list[Pod]:
        """Pods that ``owner`` controls and that are not on their way out, by name."""
        owned = (p for p in self.pods if p.meta.owner_uid == owner.uid and not p.meta.deleting)
        return sorted(owned, key=lambda pod: pod.meta.name)


@dataclass(frozen=True, slots=True)
class ReportTarget:
    """A report worth pulling."""

    key: str
    """Name of the Job's pod or of the StatefulSet: the key under which ``Observed`` keeps it."""
    url: str
    kind: str
    """``ShardProgress`` or ``GroupReport``."""


def report_targets(model: ShardedModel, observed: Observed) -> list[ReportTarget]:
    """What to pull before planning: running Jobs, and rank 0 of every group of the model.

    A ready group is asked as well: its report is where status heals from when it was lost. Of a
    model that goes only Jobs are, for what they have begun to write.
    """
    targets = []
    for job in observed.jobs:
        if job.meta.owner_uid == model.uid and job.cuts and not job.finished:
            targets += [
                ReportTarget(pod.meta.name, report_url(pod.ip), "ShardProgress")
                for pod in observed.pods_of(job.meta)
                if pod.running
            ]
    for group in () if model.deleting else observed.stateful_sets:
        if group.meta.owner_uid == model.uid:
            targets += [
                ReportTarget(group.meta.name, report_url(pod.ip), "GroupReport")
                for pod in observed.pods_of(group.meta)
                if pod.running and pod.ordinal == 0
            ]
    return targets


def report_url(ip: str) -> str:
    """Where a pod serves its report."""
    host = f"[{ip}]" if ":" in ip else ip
    return f"http://{host}:{HTTP_PORT}{REPORT_PATH}"
