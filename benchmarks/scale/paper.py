"""A node and the controllers of Jobs and StatefulSets, of paper: objects are made and told of.

Pods run nowhere. They start, tell of their progress where the operator asks for it, and end or
become ready after a while. What belongs to a model goes when the model has gone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from benchmarks.scale.api import Api, ApiError, Json
from shardedmodel_operator.cluster.resources import (
    JOBS,
    MODELS,
    PODS,
    SERVICES,
    STATEFULSETS,
    Resource,
)
from shardedmodel_operator.planning import labels
from shardedmodel_runtime.report import (
    HTTP_PORT,
    REPORT_PATH,
    GroupReport,
    RankReport,
    ShardProgress,
    ShardSummary,
)
from tests import slots
from tests.integration.operator.world import ended_job

SELECTOR = f"{labels.MANAGED_BY}={labels.MANAGER}"
RANKS = 2
"""Ranks of each group: the shape of the operator's objects does not change with more."""
JOB_ADDRESS, RANK_ADDRESS = (f"127.1.{slots.OPERATOR}.{host}" for host in (1, 2))
"""Where the reports of all Jobs, and of all groups, are served; which pod is meant does not matter
to the operator when a report names none."""
BYTES = 90_000_000
"""What every model weighs: it changes figures alone."""


@dataclass(frozen=True)
class Pace:
    """How long pods take, in seconds."""

    shard: float
    """From the start of a Job's pod to its end."""
    load: float
    """From the start of a rank to its readiness."""


class PaperNode:
    """Watches what the operator makes and does what follows."""

    def __init__(self, api: Api, pace: Pace) -> None:
        self._api = api
        self._pace = pace
        self._tasks: set[asyncio.Task[None]] = set()
        self._pods: dict[str, set[str]] = defaultdict(set)
        """Names of pods by the uid of their owner."""
        self.errors: list[str] = []

    async def run(self) -> None:
        """Serve reports, and watch for ever."""
        servers = [
            await _serve(JOB_ADDRESS, _progress()),
            await _serve(RANK_ADDRESS, _group_report()),
        ]
        try:
            await asyncio.gather(
                self._api.watch(JOBS, SELECTOR, self._see_job),
                self._api.watch(STATEFULSETS, SELECTOR, self._see_set),
                self._api.watch(MODELS, "", self._see_model),
            )
        finally:
            for server in servers:
                await server.cleanup()

    def _see_job(self, event: str, body: Json) -> None:
        uid = body["metadata"]["uid"]
        if event == "DELETED":
            self._spawn(self._remove_pods(body, self._pods.pop(uid, set())))
        elif uid not in self._pods and not body["status"].get("conditions"):
            self._pods[uid].add(f"{body['metadata']['name']}-pod")
            self._spawn(self._run_job(body))

    def _see_set(self, event: str, body: Json) -> None:
        uid, name = body["metadata"]["uid"], body["metadata"]["name"]
        wanted = {f"{name}-{ordinal}" for ordinal in range(body["spec"]["replicas"])}
        if event == "DELETED":
            self._spawn(self._remove_pods(body, self._pods.pop(uid, set())))
            return
        there = self._pods[uid]
        if surplus := there - wanted:
            self._spawn(self._remove_pods(body, surplus))
        if missing := wanted - there:
            self._spawn(self._run_ranks(body, sorted(missing)))
        self._pods[uid] = wanted

    def _see_model(self, event: str, body: Json) -> None:
        if event == "DELETED":
            self._spawn(self._collect(body))

    async def _run_job(self, job: Json) -> None:
        name = f"{job['metadata']['name']}-pod"
        await self._make_pod(name, job, "Job")
        await self._set_pod(job, name, "Running", {"running": {}}, JOB_ADDRESS)
        await asyncio.sleep(self._pace.shard)
        message = _summary(job).to_json()
        ended = {"terminated": {"exitCode": 0, "message": message}}
        await self._set_pod(job, name, "Succeeded", ended, JOB_ADDRESS)
        await self._set_status(JOBS, job, job["metadata"]["name"], ended_job(succeeded=True))

    async def _run_ranks(self, group: Json, names: list[str]) -> None:
        await asyncio.gather(*(self._make_pod(name, group, "StatefulSet") for name in names))
        state: Json = {"running": {}}
        for ready in (False, True):
            for name in names:
                await self._set_pod(group, name, "Running", state, RANK_ADDRESS, ready)
            if not ready:
                await asyncio.sleep(self._pace.load)
        told = {"replicas": len(names), "readyReplicas": len(names)}
        await self._set_status(STATEFULSETS, group, group["metadata"]["name"], told)

    async def _make_pod(self, name: str, owner: Json, kind: str) -> None:
        template = owner["spec"]["template"]
        reference = {
            "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
            "kind": kind,
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        metadata = {
            "name": name,
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [reference],
        }
        body = {"metadata": metadata, "spec": template["spec"]}
        await self._api.request("POST", PODS.path(owner["metadata"]["namespace"]), body)
        if owner["metadata"]["uid"] not in self._pods:
            await self._remove_pods(owner, {name})

    async def _set_pod(
        self, owner: Json, name: str, phase: str, state: Json, ip: str, ready: bool = False
    ) -> None:
        container = {
            "name": owner["spec"]["template"]["spec"]["containers"][0]["name"],
            "image": "runtime:test",
            "imageID": "",
            "ready": ready,
            "restartCount": 0,
            "state": state,
        }
        status = {
            "phase": phase,
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [container],
        }
        await self._set_status(PODS, owner, name, status)

    async def _set_status(self, resource: Resource, owner: Json, name: str, status: Json) -> None:
        path = resource.path(owner["metadata"]["namespace"], name, "status")
        await self._api.request("PATCH", path, {"status": status}, "merge-patch+json")

    async def _remove_pods(self, owner: Json, names: set[str]) -> None:
        for name in names:
            await self._delete(PODS, owner["metadata"]["namespace"], name)

    async def _collect(self, model: Json) -> None:
        """Delete what belonged to a model, as the garbage collector would."""
        namespace, name = model["metadata"]["namespace"], model["metadata"]["name"]
        for resource in (STATEFULSETS, JOBS, SERVICES):
            path = f"{resource.path(namespace)}?labelSelector={labels.MODEL}={name}"
            for body in (await self._api.request("GET", path))["items"]:
                await self._delete(resource, namespace, body["metadata"]["name"])

    async def _delete(self, resource: Resource, namespace: str, name: str) -> None:
        await self._api.request(
            "DELETE", f"{resource.path(namespace, name)}?propagationPolicy=Background"
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ApiError as e:
            # What is told of has gone meanwhile.
            if e.status != 404:
                self.errors.append(str(e))


async def _serve(address: str, text: str) -> web.AppRunner:
    """Answer every request for a report with ``text``."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    app = web.Application()
    app.router.add_get(REPORT_PATH, answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, HTTP_PORT).start()
    return runner


def _summary(job: Json) -> ShardSummary:
    """What the Job made: a layout of its own for each request."""
    request = job["metadata"]["labels"].get(labels.REQUEST, job["metadata"]["name"])
    layout = hashlib.sha256(request.encode()).hexdigest()[:20]
    return ShardSummary(
        layout_hash=layout,
        manifest_uri=f"s3://shards/{layout}/manifest.json",
        objects=3,
        bytes=BYTES,
        source_bytes=BYTES,
        source_bytes_read=BYTES,
        max_rank_bytes=BYTES // RANKS,
        seconds=2.5,
        peak_memory_bytes=200_000_000,
    )


def _progress() -> str:
    told = ShardProgress(
        objects=3, bytes=BYTES, bytes_done=BYTES // 2, bytes_per_second=4e7, seconds=1.2
    )
    return told.to_json()


def _group_report() -> str:
    share = BYTES // RANKS
    ranks = [
        RankReport(
            rank=rank,
            state="ready",
            device="cpu",
            bytes=share,
            bytes_done=share,
            bytes_read=share,
            seconds=0.4,
            peak_memory_bytes=2 * share,
        )
        for rank in range(RANKS)
    ]
    report = GroupReport(
        layout_hash="0" * 20,
        world_size=RANKS,
        formed=True,
        complete=True,
        backend="gloo",
        join_seconds=0.2,
        ranks=ranks,
    )
    return report.to_json()
