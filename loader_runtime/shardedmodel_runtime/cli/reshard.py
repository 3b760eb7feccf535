"""``shardedmodel reshard``: from one layout to another, without the checkpoint."""

from __future__ import annotations

import argparse

from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.progress import ProgressLine
from shardedmodel_runtime.cli.rules import parse_rules
from shardedmodel_runtime.cli.running import print_summary, progress_line, stopped_by_signals
from shardedmodel_runtime.cli.verify import read_with_progress
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.resharding import LayoutSource
from shardedmodel_runtime.sharding.plan import KEEP_DTYPE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common.add_layout(parser, is_source=True)
    common.add_storage(parser)
    common.add_sharding(parser)
    parser.set_defaults(rules=None)
    common.add_unmatched(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Cut the layout anew, checking it on the way; one that is there already is found in seconds.

    Raises:
        ConfigurationError: the parallelism or a rule does not fit the model.
        LayoutError: the layout is missing or broken, or keeps no configuration.
        StorageError: the layout cannot be read, or the storage not written.
    """
    with common.opener(arguments, "source")(arguments.layout) as layout:
        manifest = read_with_progress(layout)
        source = LayoutSource(layout, manifest)
        job = ShardJob(
            _request(arguments, manifest),
            lambda uri: source,
            common.opener(arguments, "storage"),
            read_metadata=lambda store: source.metadata(),
            settle=source.settle,
        )
        with stopped_by_signals(job), ProgressLine(lambda: progress_line(job)):
            summary = job.run()
    print_summary(summary, as_json=arguments.json)
    return 0


def _request(arguments: argparse.Namespace, manifest: Manifest) -> ShardRequest:
    """Ask for what the checkpoint itself would be asked for.

    A cast layout stays cast, and the rules that it was cut with count, unless others are given.
    """
    given = arguments.rules
    return ShardRequest(
        source_uri=manifest.source.uri,
        storage_uri=arguments.storage,
        parallelism=common.parallelism_of(arguments),
        dtype=manifest.dtype if arguments.dtype == KEEP_DTYPE else arguments.dtype,
        revision=manifest.source.revision,
        rules=manifest.user_rules if given is None else parse_rules(given),
        allow_unmatched=arguments.allow_unmatched,
    )
