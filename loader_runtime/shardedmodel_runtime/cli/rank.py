"""``shardedmodel rank``: run the ranks of one pod; what rank containers run."""

from __future__ import annotations

import argparse
from pathlib import Path

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.rank.options import JOIN_TIMEOUT_SECONDS, Place, RankOptions
from shardedmodel_runtime.rank.supervisor import Supervisor
from shardedmodel_runtime.report import HTTP_PORT, Failure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; their names are those of ``RankOptions``."""
    parser.add_argument("layout", metavar="LAYOUT", help="layout: s3://…/HASH or file:///…/HASH")
    parser.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="S3-compatible server of the layout; credentials: the usual AWS variables and files",
    )
    parser.add_argument("--region", metavar="R", help="region of the layout")
    parser.add_argument("--world-size", type=int, metavar="N", help="ranks of the group")
    parser.add_argument("--local-ranks", type=int, metavar="N", help="ranks of this pod")
    parser.add_argument("--backend", metavar="B", help="auto, gloo or nccl; default auto")
    parser.add_argument(
        "--entrypoint", metavar="M:F", help="package.module:function that gets the loaded shard"
    )
    parser.add_argument(
        "--concurrency", type=int, metavar="N", help="most ranged reads in flight, of each rank"
    )
    parser.add_argument(
        "--cache", metavar="DIR", help="folder on the node that keeps verified objects"
    )
    parser.add_argument(
        "--cache-bytes", type=int, metavar="B", help="most bytes of the cache; default: its disk"
    )
    parser.add_argument(
        "--deadline-seconds", type=float, metavar="S", help="longest time that a load may take"
    )
    parser.add_argument(
        "--join-timeout-seconds",
        type=float,
        metavar="S",
        help=f"how long to wait for the other ranks; default {JOIN_TIMEOUT_SECONDS:.0f}",
    )
    parser.add_argument(
        "--port", type=int, metavar="P", help=f"of the report endpoints; default {HTTP_PORT}"
    )
    parser.add_argument("--termination-log", type=Path, metavar="FILE", help="write a failure here")


def run(arguments: argparse.Namespace) -> int:
    """Run the pod.

    Raises:
        ConfigurationError: an argument, or the environment, cannot be meant; the termination log
            says so.
    """
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name in RankOptions.model_fields and value is not None
    }
    try:
        return Supervisor(RankOptions.parse(given), Place.from_environment()).run()
    except ConfigurationError as error:
        Failure.of(error).leave_in(arguments.termination_log)
        raise
