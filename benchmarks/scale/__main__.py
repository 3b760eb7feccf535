"""The command line: one run for each number of models, and a dated file of all."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from itertools import repeat
from pathlib import Path

from benchmarks import records
from benchmarks.scale.api import Api, Json
from benchmarks.scale.models import NAMESPACES, Models
from benchmarks.scale.paper import Pace, PaperNode
from benchmarks.scale.stages import Stages
from benchmarks.scale.table import table
from benchmarks.scale.world import World
from tests import ending, slots
from tests.devcluster import Cluster
from tests.integration.operator.conftest import CHART, SYSTEM, helm_run, kubeconfig_of
from tests.integration.operator.world import Admin

COUNTS = (10, 10, 10, 100, 100, 1000)
"""Whether the cost per model stays; the small ones are repeated, since they vary more."""
STAGES = ("create", "change", "scale", "touch", "idle", "restart", "delete")
"""What a run does with its models, in this order."""
IDLE_MINUTES = (1, 1, 1, 1, 1, 10)
"""Of each run, in which nothing changes: ten with a thousand models, which have most to write."""
PACE = Pace(shard=3.0, load=3.0)
"""Longer than the operator's interval of looking, so that progress is pulled and written too."""

logger = logging.getLogger("scale")


async def measure(
    count: int, idle_minutes: float, kubeconfig: Path, account: Path, options: argparse.Namespace
) -> Json:
    """Take ``count`` models through their lives."""
    with tempfile.TemporaryDirectory() as name:
        async with Api(kubeconfig) as api:
            node, models = PaperNode(api, PACE), Models(api, count)
            world = World(api, account, options.logs or Path(name))
            try:
                # A node or a watch that fails ends the run: without them nothing goes on.
                async with asyncio.TaskGroup() as group:
                    around = [group.create_task(work()) for work in (node.run, models.watch)]
                    figures = await _live(Stages(world, models), idle_minutes, options)
                    for task in around:
                        task.cancel()
            finally:
                world.operator.stop()
    return {"models": count, **figures, "errorsOfThePaperNode": len(node.errors)}


async def _live(stages: Stages, idle_minutes: float, options: argparse.Namespace) -> Json:
    steps: dict[str, Callable[[], Awaitable[Json]]] = {
        "create": stages.create,
        "change": stages.change,
        "scale": stages.scale,
        "touch": lambda: stages.touch(options.touch_seconds, options.touches_per_second),
        "idle": lambda: stages.idle(60 * idle_minutes),
        "restart": stages.restart,
        "delete": stages.delete,
    }
    found: Json = {}
    for name in options.stages:
        found[name] = await steps[name]()
        logger.info("%s: %s", name, json.dumps(found[name]))
    return found


def run(options: argparse.Namespace) -> Iterator[Json]:
    """Measure each number of models on an API server of its own; gives the record after each."""
    runs: list[Json] = []
    idle = [*options.idle_minutes, *repeat(options.idle_minutes[-1], len(options.models))]
    for count, minutes in zip(options.models, idle, strict=False):
        logger.info("%d models", count)
        with (
            tempfile.TemporaryDirectory() as name,
            Cluster(slot=slots.OPERATOR).running(control_plane_only=True) as cluster,
            contextlib.closing(Admin(cluster.kubeconfig)) as admin,
        ):
            account = _prepare(admin, Path(name) / "kubeconfig")
            lives = measure(count, minutes, cluster.kubeconfig, account, options)
            runs.append(asyncio.run(lives))
            version = admin.request("GET", "/version")["gitVersion"]
        yield records.heading("an operator and its models on an API server, with pods of paper") | {
            "kubernetes": version,
            "namespaces": NAMESPACES,
            "loadAverage": round(os.getloadavg()[0], 1),
            "runs": runs,
        }


def _prepare(admin: Admin, account: Path) -> Path:
    """Install the chart and make the namespaces; gives a kubeconfig of the operator's account."""
    helm_run(
        admin.kubeconfig,
        *("install", "shardedmodel-operator", str(CHART)),
        *("--namespace", SYSTEM, "--create-namespace", "--set", "runtimeImage=runtime:test"),
    )
    for number in range(NAMESPACES):
        team = f"team-{number}"
        admin.create("/api/v1/namespaces", {"metadata": {"name": team}})
        path = f"/api/v1/namespaces/{team}/serviceaccounts"
        # No controller makes it here, and no pod is admitted without.
        admin.create(path, {"metadata": {"name": "default"}})
    return kubeconfig_of(admin, SYSTEM, "shardedmodel-operator", account)


def main() -> None:
    """Run, and write the dated files after each number of models: the largest takes an hour."""
    parser = records.parser("scale", __doc__)
    parser.add_argument(
        "--models",
        type=int,
        nargs="+",
        default=COUNTS,
        metavar="N",
        help="models of each run, one after another",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=STAGES,
        default=STAGES,
        metavar="STAGE",
        help="of each run: " + ", ".join(STAGES),
    )
    parser.add_argument(
        "--idle-minutes",
        type=float,
        nargs="+",
        default=IDLE_MINUTES,
        metavar="M",
        help="of each run, the last of all that follow",
    )
    parser.add_argument(
        "--touch-seconds", type=float, default=330, metavar="S", help="of changes to models at rest"
    )
    parser.add_argument(
        "--touches-per-second", type=float, default=3, metavar="R", help="of those changes"
    )
    parser.add_argument("--logs", type=Path, help="keep the operators' logs in this folder")
    options = parser.parse_args()
    ending.unwind_on_sigterm()
    if options.logs is not None:
        options.logs.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for record in run(options):
        path = records.write(record, options.output, "scale")
        path.with_suffix(".md").write_text(table(record))
    print(table(record))


if __name__ == "__main__":
    main()
