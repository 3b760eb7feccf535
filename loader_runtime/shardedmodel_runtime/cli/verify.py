"""``shardedmodel verify``: read every byte of a layout and hold it against its manifest."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.output import counted, show, tell
from shardedmodel_runtime.cli.progress import ByteCount, ProgressLine, decimal_size, waiting_line
from shardedmodel_runtime.errors import LayoutError
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.layout.verification import Verification, verify_layout
from shardedmodel_runtime.storage.base import ObjectStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common.add_layout(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify; 0 when every byte is as the manifest says.

    Raises:
        LayoutError: there is no manifest, or it cannot be used.
        StorageError: the store cannot be read.
    """
    with common.opener(arguments, "storage")(arguments.layout) as store:
        manifest = read_with_progress(store)
        result = verify_with_progress(store, manifest)
    if arguments.json:
        show(_to_json(store.uri, manifest, result))
    else:
        _print(result)
    return LayoutError.exit_code if result.problems else 0


def read_with_progress(store: ObjectStore) -> Manifest:
    """Read a layout's manifest and show on stderr what keeps it from coming.

    Raises:
        LayoutError: there is none, or it cannot be used.
        StorageError: the store cannot be read.
    """
    with waiting_line(store, "the manifest"):
        return read_manifest(store)


def verify_with_progress(store: ObjectStore, manifest: Manifest) -> Verification:
    """Verify a layout and show on stderr how far it is."""
    done = ByteCount()

    def line() -> str:
        failed = f"; last failure: {store.last_failure}" if store.last_failure else ""
        return (
            f"{decimal_size(done.bytes)} of {decimal_size(manifest.total_bytes)} verified{failed}"
        )

    with ProgressLine(line):
        return verify_layout(store, manifest, done.add)


def _print(result: Verification) -> None:
    for problem in result.problems:
        tell(f"error: {problem.reason}: {problem.key}: {problem.message}")
    broken = len({problem.key for problem in result.problems})
    verdict = f"{broken} broken" if broken else "all as the manifest says"
    show(f"{counted(result.objects, 'object')}, {decimal_size(result.bytes)}: {verdict}")


def _to_json(uri: str, manifest: Manifest, result: Verification) -> str:
    return json.dumps(
        {
            "layout": uri,
            "layoutHash": manifest.layout_hash,
            "objects": result.objects,
            "bytes": result.bytes,
            "problems": [asdict(problem) for problem in result.problems],
        }
    )
