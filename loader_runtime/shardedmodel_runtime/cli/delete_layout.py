"""``shardedmodel delete-layout``: delete a layout, and nothing beside it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.output import counted, show
from shardedmodel_runtime.cli.progress import waiting_line
from shardedmodel_runtime.errors import ShardedModelError
from shardedmodel_runtime.layout.deletion import delete_layout
from shardedmodel_runtime.report import Failure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common.add_layout(parser)
    parser.add_argument(
        "--termination-log", type=Path, metavar="FILE", help="write a failure here as well"
    )
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Delete; a layout that is not there is deleted already.

    Raises:
        ShardedModelError: it failed; the termination log says so.
    """
    try:
        with (
            common.opener(arguments, "storage")(arguments.layout) as store,
            waiting_line(store, "the deletion"),
        ):
            objects = delete_layout(store)
    except ShardedModelError as error:
        Failure.of(error).leave_in(arguments.termination_log)
        raise
    if arguments.json:
        show(json.dumps({"layout": arguments.layout, "objects": objects}))
    elif objects:
        show(f"{arguments.layout}: {counted(objects, 'object')} deleted")
    else:
        show(f"{arguments.layout}: there is no layout, and nothing was deleted")
    return 0
