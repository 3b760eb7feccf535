"""``shardedmodel rank``: run the ranks of one pod; what rank containers run."""

from __future__ import annotations

import argparse
from pathlib import Path

from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.errors import ShardedModelError
from shardedmodel_runtime.rank.options import JOIN_TIMEOUT_SECONDS, Place, RankOptions
from shardedmodel_runtime.rank.supervisor import Supervisor
from shardedmodel_runtime.report import HTTP_PORT, Failure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; their names are those of ``RankOptions``."""
    common.add_loading(parser)
    parser.add_argument("--world-size", type=int, metavar="N", help="ranks of the group")
    parser.add_argument("--local-ranks", type=int, metavar="N", help="ranks of this pod")
    parser.add_argument("--backend", metavar="B", help="auto, gloo or nccl; default auto")
    parser.add_argument(
        "--entrypoint", metavar="M:F", help="package.module:function that gets the loaded shard"
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
        GroupError: the system gives no process for a rank; it says that, too.
    """
    try:
        options = RankOptions.parse(common.given(arguments, RankOptions))
        return Supervisor(options, Place.from_environment()).run()
    except ShardedModelError as error:
        Failure.of(error).leave_in(arguments.termination_log)
        raise
