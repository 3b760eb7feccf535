"""``shardedmodel shard``: make a layout, or find it made; also what the pre-shard Job runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.progress import ProgressLine
from shardedmodel_runtime.cli.rules import parse_rules
from shardedmodel_runtime.cli.running import print_summary, progress_line, stopped_by_signals
from shardedmodel_runtime.errors import ConfigurationError, ShardedModelError, Terminated, excerpt
from shardedmodel_runtime.http import ReportServer
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.report import Failure, ShardSummary

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Which pod of an Indexed Job this is (Kubernetes documentation, "Indexed Job")."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common.add_source(parser)
    common.add_storage(parser)
    common.add_sharding(parser)
    common.add_unmatched(parser)
    parser.add_argument("--revision", default="", help="your name for this state of the source")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the work"
    )
    parser.add_argument(
        "--worker-index",
        type=int,
        metavar="I",
        help=f"which of them this is, from 0; else {INDEX_VARIABLE} of the environment",
    )
    parser.add_argument(
        "--port", type=_port, metavar="P", help="serve /report, /metrics and probes here"
    )
    parser.add_argument(
        "--termination-log", type=Path, metavar="FILE", help="write the summary or failure here"
    )
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the Job; its summary or failure goes to the termination log as well.

    Raises:
        ShardedModelError: it failed; the termination log says so.
    """
    try:
        summary = _shard(arguments)
    except ShardedModelError as error:
        Failure.of(error).leave_in(arguments.termination_log)
        raise
    except Exception as error:
        text = f"{type(error).__name__}; the container's log has the traceback"
        failure = Failure(reason="InternalError", message=text)
        failure.leave_in(arguments.termination_log)
        raise
    summary.leave_in(arguments.termination_log)
    print_summary(summary, as_json=arguments.json)
    return 0


def _shard(arguments: argparse.Namespace) -> ShardSummary:
    request = ShardRequest(
        source_uri=arguments.source,
        storage_uri=arguments.storage,
        parallelism=common.parallelism_of(arguments),
        dtype=arguments.dtype,
        revision=arguments.revision,
        rules=parse_rules(arguments.rules),
        allow_unmatched=arguments.allow_unmatched,
        workers=arguments.workers,
        worker=_worker_index(arguments),
    )
    job = ShardJob(request, common.opener(arguments, "source"), common.opener(arguments, "storage"))

    def told(error: Terminated) -> None:
        Failure.of(error).leave_in(arguments.termination_log)

    with (
        stopped_by_signals(job, told),
        _serving(arguments.port, job),
        ProgressLine(lambda: progress_line(job)),
    ):
        return job.run()


def _worker_index(arguments: argparse.Namespace) -> int:
    """Which worker this is.

    Raises:
        ConfigurationError: there are several, and nothing says which one this is.
    """
    if arguments.worker_index is not None:
        return int(arguments.worker_index)
    index = os.environ.get(INDEX_VARIABLE, "" if arguments.workers > 1 else "0")
    if not index.isdecimal():
        raise ConfigurationError(
            f"--worker-index: not given, and {INDEX_VARIABLE} is {excerpt(index)!r}; "
            f"say which of the {arguments.workers} workers this is, from 0"
        )
    return int(index) if arguments.workers > 1 else 0


@contextmanager
def _serving(port: int | None, job: ShardJob) -> Iterator[None]:
    """Serve the Job's report while it runs, where a port is given.

    Raises:
        ConfigurationError: the port is in use.
    """
    if port is None:
        yield
        return
    server = ReportServer(
        port,
        report=lambda: job.progress().to_json(),
        ready=lambda: True,
        healthy=lambda: True,
        metrics=lambda: _metrics(job),
    )
    with server:
        yield


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; use one from 0 (any) to 65535")
    return int(text)


def _metrics(job: ShardJob) -> str:
    progress = job.progress()
    return (
        "# HELP shardedmodel_shard_bytes Bytes of the layout that is being made.\n"
        "# TYPE shardedmodel_shard_bytes gauge\n"
        f"shardedmodel_shard_bytes {progress.bytes}\n"
        "# HELP shardedmodel_shard_written_bytes_total Bytes of it that the storage has taken.\n"
        "# TYPE shardedmodel_shard_written_bytes_total counter\n"
        f"shardedmodel_shard_written_bytes_total {progress.bytes_done}\n"
    )
