"""``shardedmodel unshard``: put a layout's tensors together again as a plain checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.progress import ByteCount, ProgressLine, megabytes
from shardedmodel_runtime.cli.verify import verify_with_progress
from shardedmodel_runtime.layout.manifest import read_manifest
from shardedmodel_runtime.layout.unsharding import check_new, unshard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common.add_layout(parser)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder for the files")
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify the layout, then write the files; none appears unless all do.

    Raises:
        ConfigurationError: the folder is not empty.
        LayoutError: the layout is missing or broken.
        StorageError: the layout cannot be read.
    """
    check_new(arguments.folder)
    with common.opener(arguments, "storage")(arguments.layout) as store:
        manifest = read_manifest(store)
        verified = verify_with_progress(store, manifest)
        verified.raise_if_broken()
        done = ByteCount()
        with ProgressLine(lambda: f"{megabytes(done.bytes)} written"):
            files = unshard(
                manifest, store, verified.digests, arguments.folder, progressed=done.add
            )
    if arguments.json:
        result = {"files": [str(file) for file in files], "bytes": done.bytes}
        print(json.dumps({**result, "tensors": len(manifest.tensors)}))
    else:
        for file in files:
            print(file)
    return 0
