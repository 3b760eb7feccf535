"""The command line: one run for each number of models, and a dated file of all."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import records
from benchmarks.scale.api import Api, Json
from benchmarks.scale.models import NAMESPACES, Models
from benchmarks.scale.paper import Pace, PaperNode
from benchmarks.scale.stages import Stages
from benchmarks.scale.table import table
from benchmarks.scale.world import World
from tests import slots
from tests.devcluster import Cluster
from tests.integration.operator.conftest import CHART, SYSTEM, helm_run, kubeconfig_of
from tests.integration.operator.world import Admin

COUNTS = (10, 10, 10, 100, 100, 1000)
"""Whether the cost per model stays; the small ones are repeated, since they vary more."""
STAGES = ("create", "change", "scale", "touch", "idle", "restart", "delete")
"""What a run does with its models, in this order."""
PACE = Pace(shard=3.0, load=3.0)
"""Longer than the operator's interval of looking, so that progress is pulled and written too."""

logger = logging.getLogger("scale")


async def measure(count: int, kubeconfig: Path, account: Path, options: argparse.Namespace) -> Json:
    """Take ``count`` models through their lives."""
    with tempfile.TemporaryDirectory() as name:
        async with Api(kubeconfig) as api:
            node, models = PaperNode(api, PACE), Models(api, count)
            world = World(api, account, options.logs or Path(name))
            try:
                # A node or a watch that fails ends the run: without them nothing goes on.
                async with asyncio.TaskGroup() as group:
                    around = [group.create_task(work()) for work in (node.run, models.watch)]
                    figures = await _live(Stages(world, models), options)
                    for task in around:
                        task.cancel()
            finally:
                world.operator.stop()
    return {"models": count, **figures, "errorsOfThePaperNode": len(node.errors)}


async def _live(stages: Stages, options: argparse.Namespace) -> Json:
    steps: dict[str, Callable[[], Awaitable[Json]]] = {
        "create": stages.create,
        "change": stages.change,
        "scale": stages.scale,
        "touch": lambda: stages.touch(options.touch_seconds, options.touches_per_second),
        "idle": lambda: stages.idle(60 * options.idle_minutes),
        "restart": stages.restart,
        "delete": stages.delete,
    }
    found: Json = {}
    for name in options.stages:
        found[name] = await steps[name]()
        logger.info("%s: %s", name, json.dumps(found[name]))
    return found


def run(options: argparse.Namespace) -> Json:
    """Measure each number of models on an API server of its own."""
    runs = []
    for count in options.models:
        logger.info("%d models", count)
        with (
            tempfile.TemporaryDirectory() as name,
            Cluster(slot=slots.OPERATOR).running(control_plane_only=True) as cluster,
            contextlib.closing(Admin(cluster.kubeconfig)) as admin,
        ):
            account = _prepare(admin, Path(name) / "kubeconfig")
            runs.append(asyncio.run(measure(count, cluster.kubeconfig, account, options)))
            version = admin.request("GET", "/version")["gitVersion"]
    what = "an operator and its models on an API server alone, with pods of paper"
    return records.heading(what) | {
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
    """Run, and write the dated files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
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
    parser.add_argument("--idle-minutes", type=float, default=10, metavar="M")
    parser.add_argument("--touch-seconds", type=float, default=330, metavar="S")
    parser.add_argument("--touches-per-second", type=float, default=3, metavar="R")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--logs", type=Path, help="keep the operators' logs in this folder")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    record = run(options)
    path = records.write(record, options.output, "scale")
    path.with_suffix(".md").write_text(table(record))
    print(table(record))


if __name__ == "__main__":
    main()
