"""``shardedmodel unshard``: put a layout's tensors together again as a plain checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.output import show
from shardedmodel_runtime.cli.progress import ByteCount, ProgressLine, decimal_size
from shardedmodel_runtime.cli.running import ended_by_sigterm
from shardedmodel_runtime.cli.verify import read_with_progress, verify_with_progress
from shardedmodel_runtime.errors import ConfigurationError, excerpt
from shardedmodel_runtime.layout.unsharding import check_new, unshard
from shardedmodel_runtime.storage.uri import parse_uri


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common.add_layout(parser)
    parser.add_argument(
        "folder", type=_folder, metavar="FOLDER", help="a new folder for the files, or its file://"
    )
    common.add_json(parser)


def _folder(text: str) -> Path:
    """Take a path, or the URI of one: weights are put together on this machine."""
    scheme, separator, _ = text.partition("://")
    if not separator:
        return Path(text)
    if scheme != "file":
        raise argparse.ArgumentTypeError(
            f"{excerpt(scheme)}:// is not on this machine; name a folder here, and copy it then"
        )
    try:
        return Path(parse_uri(text).path)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def run(arguments: argparse.Namespace) -> int:
    """Verify the layout, then write the files; none appears unless all do.

    Raises:
        ConfigurationError: the folder is not empty.
        LayoutError: the layout is missing or broken.
        StorageError: the layout cannot be read, or the folder not be written.
        Terminated: SIGTERM came; nothing is left behind.
    """
    check_new(arguments.folder)
    with ended_by_sigterm(), common.opener(arguments, "storage")(arguments.layout) as store:
        manifest = read_with_progress(store)
        verified = verify_with_progress(store, manifest)
        verified.raise_if_broken()
        done = ByteCount()
        with ProgressLine(lambda: f"{decimal_size(done.bytes)} written"):
            files = unshard(
                manifest, store, verified.digests, arguments.folder, progressed=done.add
            )
    if arguments.json:
        result = {"files": [str(file) for file in files], "bytes": done.bytes}
        show(json.dumps({**result, "tensors": len(manifest.tensors)}))
    else:
        show("\n".join(map(str, files)))
    return 0
