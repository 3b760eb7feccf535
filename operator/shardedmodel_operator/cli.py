"""The command ``shardedmodel-operator``: run the operator, check an installation, print the CRD."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from shardedmodel_operator import __version__, logs
from shardedmodel_operator.api import crd
from shardedmodel_operator.check import check
from shardedmodel_operator.cluster.client import Cluster
from shardedmodel_operator.reconciling.process import Operator
from shardedmodel_operator.settings import Settings
from shardedmodel_runtime.errors import ShardedModelError

logger = logging.getLogger(__name__)

EPILOG = "Settings are environment variables SHARDEDMODEL_…; docs/operating.md lists them."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status (0, or the error's ``exit_code``)."""
    options = _parser().parse_args(arguments)
    if options.command == "crd":
        sys.stdout.write(crd.render())
        return 0
    try:
        settings = Settings.read(os.environ, _overrides(options))
        logs.configure(settings.log_level, settings.log_format)
        return _check(settings) if options.command == "check" else _run(settings)
    except ShardedModelError as e:
        # Before the settings are known there is no logging; people and kubelet read stderr.
        print(f"shardedmodel-operator: {e.reason}: {e}", file=sys.stderr)
        return e.exit_code


def _run(settings: Settings) -> int:
    served = ", ".join(settings.namespaces) or "all namespaces"
    logger.info("shardedmodel-operator %s serves %s", __version__, served)
    cluster = Cluster.connect()
    try:
        asyncio.run(Operator(settings, cluster, cluster.watched()).run())
    finally:
        cluster.close()
    return 0


def _check(settings: Settings) -> int:
    cluster = Cluster.connect()
    try:
        for line in check(settings, cluster):
            print(line)
    finally:
        cluster.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shardedmodel-operator",
        description="Reconciles ShardedModel resources on a Kubernetes cluster.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="reconcile until told to stop", epilog=EPILOG)
    run.add_argument(
        "--namespace",
        action="append",
        metavar="NAME",
        dest="namespaces",
        help="serve this namespace; may be repeated; default: all, or SHARDEDMODEL_NAMESPACES",
    )
    run.add_argument("--port", type=int, help="port of /healthz, /readyz and /metrics")
    run.add_argument("--log-level", type=str.upper, help="DEBUG, INFO, WARNING or ERROR")
    run.add_argument("--log-format", help="json or text")
    commands.add_parser(
        "check",
        help="look whether an operator of these settings can work, and whether one does",
        epilog=EPILOG,
    )
    commands.add_parser("crd", help="print the CustomResourceDefinition as YAML")
    return parser


def _overrides(options: argparse.Namespace) -> dict[str, object]:
    """Flags that were given; they outrank the environment."""
    names = ("namespaces", "port", "log_level", "log_format")
    given = vars(options)
    return {name: value for name in names if (value := given.get(name)) is not None}
