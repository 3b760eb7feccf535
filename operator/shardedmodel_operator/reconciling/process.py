"""The operator's process: everything put together, and how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import time
import uuid
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import kopf

from shardedmodel_operator.cluster.cache import ObjectCache
from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.cluster.events import EventRecorder
from shardedmodel_operator.cluster.reports import ReportClient
from shardedmodel_operator.cluster.resources import BUDGETS, MODELS, WATCHED, Resource
from shardedmodel_operator.errors import ObjectNotFound
from shardedmodel_operator.planning.labels import MANAGER
from shardedmodel_operator.planning.settings import PlanSettings
from shardedmodel_operator.reconciling.handlers import (
    CLIENT_SECONDS,
    build_registry,
    kopf_settings,
)
from shardedmodel_operator.reconciling.leadership import Election, LeaseName, Tenure
from shardedmodel_operator.reconciling.metrics import Metrics
from shardedmodel_operator.reconciling.phases import Phases
from shardedmodel_operator.reconciling.queue import WorkQueue
from shardedmodel_operator.reconciling.reconciler import Reconciler
from shardedmodel_operator.reconciling.sweep import Sweeper
from shardedmodel_operator.reconciling.watches import Watches
from shardedmodel_operator.reconciling.worker import work
from shardedmodel_operator.settings import Settings
from shardedmodel_runtime.http import ReportServer

logger = logging.getLogger(__name__)

TICK_SECONDS = 2.0
"""How often the event loop shows that it turns."""
STUCK_SECONDS = 60.0
"""A loop that has not turned for so long hangs: no step of it blocks, so seconds would be much."""
OTHER_CALLERS = 2
"""Beside the workers: the sweep, and kopf when it asks for credentials."""
BROKEN_SECONDS = 2.0 * CLIENT_SECONDS
"""A watch without an event or a new stream for so long is broken. On an idle cluster the server
begins a new stream every four minutes, we see to it after five; twice that is not an accident."""


class Operator:
    """One operator; ``run`` serves until the process is told to end."""

    def __init__(
        self, settings: Settings, cluster: Cluster, watched: Sequence[Resource] = WATCHED
    ) -> None:
        """Put the parts together for a server with the ``watched`` kinds; nothing is started."""
        self._watched = watched
        self._settings = settings
        self._cluster = cluster
        self._ticked = time.monotonic()
        self._cache = ObjectCache()
        self._queue = WorkQueue(time.monotonic)
        self._synced = asyncio.Event()
        self._tenure = Tenure(time.monotonic)
        self._election = self._stand()
        cluster.guard = self._tenure.act
        self._watches = Watches(settings.namespaces, cluster.calls, time.monotonic, watched)
        self._phases = Phases(time.monotonic, self._tenure.lasts)
        self._metrics = Metrics(
            cluster, self._queue, self._watches, self._phases, self._tenure.lasts
        )
        self._sweeper = Sweeper(cluster, self._cache, self._queue, settings.namespaces, watched)
        self._reconciler = Reconciler(
            cluster=cluster,
            cache=self._cache,
            events=EventRecorder(cluster, socket.gethostname()),
            reports=ReportClient(),
            settings=PlanSettings(
                runtime_image=settings.runtime_image,
                image_pull_policy=settings.runtime_image_pull_policy,
                cache_host_paths=settings.cache_host_paths,
                disruption_budgets=settings.pod_disruption_budgets and BUDGETS in watched,
            ),
            now=lambda: datetime.now(UTC),
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ClusterError: the resource is not served or may not be listed.
            ConfigurationError: the port cannot be bound.
        """
        self._provide_threads()
        await asyncio.to_thread(self._check_served)
        with ReportServer(
            self._settings.port,
            report=self._report,
            ready=lambda: self._sweeper.ready,
            healthy=self._healthy,
            metrics=self._metrics.render,
        ) as server:
            logger.info("serving health and metrics on port %d", server.port)
            await self._serve()

    def _provide_threads(self) -> None:
        """Let every worker call the API server at a time, on however few processors."""
        threads = ThreadPoolExecutor(self._settings.workers + OTHER_CALLERS)
        asyncio.get_running_loop().set_default_executor(threads)

    def _stand(self) -> Election | None:
        """Stand for the Lease, or, where there is none, lead from now on."""
        if not self._settings.lease:
            self._tenure.extend(math.inf)
            return None
        # Of this process alone: after a restart it must not take itself for the former one.
        identity = f"{socket.gethostname()}_{uuid.uuid4()}"
        lease = LeaseName(*self._settings.lease.split("/"))
        return Election(self._cluster, lease, identity, self._tenure, time.monotonic)

    async def _serve(self) -> None:
        """Run kopf and our own tasks; whichever ends first ends all."""
        # Ours are created first: at its end kopf waits for tasks that are younger than itself.
        own = [asyncio.create_task(coroutine) for coroutine in self._own_work()]
        watching = asyncio.create_task(self._watch())
        try:
            done, _ = await asyncio.wait([watching, *own], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._tenure.close()
            for task in (watching, *own):
                task.cancel()
            await asyncio.gather(watching, *own, return_exceptions=True)
            if self._election:
                await self._election.release()
        for task in done:
            task.result()
        logger.info("stopped")

    def _own_work(self) -> list[Coroutine[Any, Any, None]]:
        workers = [self._work() for _ in range(self._settings.workers)]
        standing = [self._lead(self._election)] if self._election else []
        return [*workers, *standing, self._sweep(), self._tick()]

    async def _work(self) -> None:
        # Half of what there is would look as if the other half were to be made.
        await self._synced.wait()
        await work(
            self._queue,
            self._reconciler.reconcile,
            self._metrics,
            time.monotonic,
            self._tenure.lasts,
        )

    async def _watch(self) -> None:
        namespaces = self._settings.namespaces
        await kopf.operator(
            registry=build_registry(
                self._cache, self._queue, self._watches, self._phases, self._watched
            ),
            settings=kopf_settings(),
            standalone=True,
            # kopf would ask for a user name, which a numeric user in a container does not have.
            identity=MANAGER,  # type: ignore[arg-type]  # a NewType of str that kopf keeps private
            clusterwide=not namespaces,
            namespaces=namespaces,
        )

    async def _sweep(self) -> None:
        await self._sweeper.wait_until_ready()
        logger.info("ready: %d models", len(self._cache.models()))
        self._synced.set()
        await self._sweeper.run(self._settings.resync_seconds)

    async def _lead(self, election: Election) -> None:
        # One that does not know yet what there is must not keep off one that does.
        await self._synced.wait()
        await election.run(self._enqueue_all)

    async def _enqueue_all(self) -> None:
        for key in self._cache.models():
            await self._queue.add(key)

    async def _tick(self) -> None:
        while True:
            self._ticked = time.monotonic()
            self._phases.keep(self._cache.models())
            await asyncio.sleep(TICK_SECONDS)

    def _check_served(self) -> None:
        """Fail with a plain message where the CRD or the right to list is missing."""
        namespace = next(iter(self._settings.namespaces), None)
        try:
            next(self._cluster.list_pages(MODELS, namespace))
        except ObjectNotFound as e:
            raise ObjectNotFound(
                f"the cluster does not serve {MODELS.plural}.{MODELS.group}; install the "
                "CustomResourceDefinition (`shardedmodel-operator crd | kubectl apply -f -`)",
                e.status,
            ) from e

    def _healthy(self) -> bool:
        turns = time.monotonic() - self._ticked < STUCK_SECONDS
        heard = max(self._watches.ages().values()) < BROKEN_SECONDS
        return turns and heard and not self._sweeper.silent

    def _report(self) -> str:
        return json.dumps(
            {
                "kind": "OperatorReport",
                "leading": self._tenure.lasts(),
                "models": len(self._cache.models()),
                "queueDepth": self._queue.depth(),
                "ready": self._sweeper.ready,
                "silentWatches": sorted(self._sweeper.silent),
            }
        )
