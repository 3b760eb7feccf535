"""One reconciliation: observe, plan, act. All that decides is ``plan``; all here is order.

Objects are applied before the status that speaks of them is written, and Events come last. Each
step may be the last one before the process dies: the next reconciliation begins from what is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from shardedmodel_operator.api.resource import FINALIZER, ShardedModel
from shardedmodel_operator.api.status import ShardedModelStatus
from shardedmodel_operator.cluster.cache import Key, ObjectCache
from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.endpoints import read_sent_to
from shardedmodel_operator.cluster.events import EventRecorder
from shardedmodel_operator.cluster.refusals import read_refusal
from shardedmodel_operator.cluster.reports import ReportClient
from shardedmodel_operator.cluster.resources import MODELS, Object, resource_of
from shardedmodel_operator.errors import ClusterAccessDenied, ClusterError, ObjectRejected
from shardedmodel_operator.planning import drain
from shardedmodel_operator.planning.events import transitions
from shardedmodel_operator.planning.missing import short_of_pods
from shardedmodel_operator.planning.observed import Observed, report_targets
from shardedmodel_operator.planning.plan import plan
from shardedmodel_operator.planning.result import EventDraft, Plan
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_operator.planning.sharing import layout_to_delete
from shardedmodel_operator.planning.status import PROGRESS_SECONDS, worth_writing
from shardedmodel_operator.reconciling.refusal import refused

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Brings one model after another to what its spec asks for."""

    cluster: Cluster
    cache: ObjectCache
    events: EventRecorder
    reports: ReportClient
    settings: PlanSettings
    now: Callable[[], datetime]
    written: dict[Key, datetime] = field(default_factory=dict)
    """When each model's status was last written; forgetting it costs one early write."""

    async def reconcile(self, key: Key) -> float | None:
        """Reconcile the model once.

        Returns:
            Seconds after which it should be looked at again; None: when something happens.

        Raises:
            ClusterError: the server refused or failed; the key should come again.
        """
        body = self.cache.model(key)
        if body is None:
            # What belonged to it goes with it, by its owner references.
            self.written.pop(key, None)
            return None
        model = ShardedModel.from_object(body)
        observed = await self._observe(key, body, model)
        decided = plan(model, observed, self.settings, self.now())
        if decided.finalizer:
            body = await self._set_finalizer(body, True)
        try:
            await self._act(model, decided, observed)
        except (ObjectRejected, ClusterAccessDenied) as e:
            await self._tell_refusal(key, body, model, decided.status, e)
            raise
        if decided.finalizer is False:
            # Without a status: that of a model which goes is not written any more.
            for event in decided.events if model.deleting else ():
                await self._record(body, event)
            body = await self._set_finalizer(body, False)
        if not worth_writing(model.status, decided.status, self.written.get(key), self.now()):
            return _progress_later(model.status, decided)
        await self._write_status(key, body, decided.status)
        for event in decided.events:
            await self._record(body, event)
        return decided.requeue_after

    async def _observe(self, key: Key, body: Object, model: ShardedModel) -> Observed:
        observed = self.cache.observe(key)
        if model.deleting and not model.finalized:
            return observed
        others = self.cache.neighbours(body, leaving=not model.deleting)
        observed = replace(observed, neighbours=tuple(map(ShardedModel.from_object, others)))
        if not model.deleting:
            observed = await self._with_refusals(model, observed)
            observed = await self._with_addresses(model, observed)
            return await self._with_reports(model, observed)
        if not layout_to_delete(model):
            observed = await self._with_reports(model, observed)
        return replace(observed, neighbouring_sets=tuple(self.cache.neighbouring_sets(key)))

    async def _set_finalizer(self, body: Object, present: bool) -> Object:
        changed = await asyncio.to_thread(self.cluster.set_finalizer, body, FINALIZER, present)
        self.cache.put(MODELS, changed)
        return changed

    async def _with_refusals(self, model: ShardedModel, observed: Observed) -> Observed:
        settings, status = self.settings, model.status
        refusals = {
            meta.uid: await asyncio.to_thread(read_refusal, self.cluster, model.namespace, meta.uid)
            for meta in short_of_pods(model.uid, status, observed, settings, self.now())
        }
        return replace(observed, refusals=refusals) if refusals else observed

    async def _with_addresses(self, model: ShardedModel, observed: Observed) -> Observed:
        """Add where the model's Service sends to, while groups that it leaves wait for that."""
        if not drain.asks(model, observed):
            return observed
        namespace, name = model.namespace, model.name
        sent_to = await asyncio.to_thread(read_sent_to, self.cluster, namespace, name)
        return replace(observed, sent_to=sent_to)

    async def _with_reports(self, model: ShardedModel, observed: Observed) -> Observed:
        """Add what running Jobs and groups say of themselves."""
        targets = report_targets(model, observed)
        if not targets:
            return observed
        shards, groups = await self.reports.pull(targets)
        return replace(observed, shard_progress=shards, group_reports=groups)

    async def _act(self, model: ShardedModel, decided: Plan, observed: Observed) -> None:
        ours = {(kind, meta.name) for kind, meta in observed.named()}
        refusals: list[ClusterError] = []
        for manifest in decided.apply:
            named = (manifest["kind"], manifest["metadata"]["name"])
            try:
                if named not in ours:
                    await self._refuse_to_take_over(model, manifest)
                made = await asyncio.to_thread(self.cluster.apply, manifest)
            except (ObjectRejected, ClusterAccessDenied) as e:
                # The rest goes on: what is deleted may free the quota that refused this.
                refusals.append(e)
                continue
            # The next look must see it, also before its event arrives.
            self.cache.put(resource_of(made["apiVersion"], made["kind"]), made)
            logger.info("applied %s %s", *named)
        for ref in decided.delete:
            resource = resource_of(ref.api_version, ref.kind)
            await asyncio.to_thread(self.cluster.delete, resource, ref.namespace, ref.name, ref.uid)
            self.cache.doom(resource, ref.uid)
            logger.info("deleted %s %s", ref.kind, ref.name)
        if refusals:
            raise refusals[0]

    async def _refuse_to_take_over(self, model: ShardedModel, manifest: Object) -> None:
        """See that what is about to be made is not somebody else's object of the same name."""
        resource = resource_of(manifest["apiVersion"], manifest["kind"])
        name = manifest["metadata"]["name"]
        there = await asyncio.to_thread(self.cluster.read, resource, model.namespace, name)
        owners = there["metadata"].get("ownerReferences", []) if there else []
        if there is not None and model.uid not in {owner["uid"] for owner in owners}:
            raise ObjectRejected(
                f"{manifest['kind']} {name} exists already and is not this model's; remove it or "
                "rename the model"
            )

    async def _write_status(self, key: Key, body: Object, status: ShardedModelStatus) -> None:
        written = await asyncio.to_thread(self.cluster.replace_status, body, status.to_object())
        self.cache.put(MODELS, written)
        self.written[key] = self.now()

    async def _tell_refusal(
        self,
        key: Key,
        body: Object,
        model: ShardedModel,
        planned: ShardedModelStatus,
        error: ClusterError,
    ) -> None:
        """Say on the model what was reached, and why it cannot go on."""
        status = refused(planned, model.status, error, self.now())
        if worth_writing(model.status, status, self.written.get(key), self.now()):
            await self._write_status(key, body, status)
            reached = (e for e in transitions(model.status, status) if e.reason != error.reason)
            for event in (*reached, EventDraft("Warning", error.reason, error.message)):
                await self._record(body, event)

    async def _record(self, body: Object, event: EventDraft) -> None:
        logger.info("event %s: %s", event.reason, event.message)
        await self.events.record(body, event.type, event.reason, event.message)


def _progress_later(old: ShardedModelStatus, decided: Plan) -> float | None:
    """When to look again after a status that was not worth writing yet."""
    if decided.status == old:
        return decided.requeue_after
    return min(decided.requeue_after or PROGRESS_SECONDS, PROGRESS_SECONDS)
