"""``shardedmodel shard``: make a layout, or find it made; also what the pre-shard Job runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.progress import ProgressLine, megabytes
from shardedmodel_runtime.cli.rules import parse_rules
from shardedmodel_runtime.errors import ConfigurationError, ShardedModelError, Terminated, excerpt
from shardedmodel_runtime.http import ReportServer
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.report import Failure, ShardSummary

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Which pod of an Indexed Job this is (Kubernetes documentation, "Indexed Job")."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common.add_source(parser)
    common.add_storage(parser)
    common.add_sharding(parser)
    common.add_dtype(parser)
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
        "--port", type=int, metavar="P", help="serve /report, /metrics and probes here"
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


def print_summary(summary: ShardSummary, *, as_json: bool) -> None:
    """Print the layout's address on stdout and what was done on stderr, or all of it as JSON."""
    if as_json:
        print(summary.to_json())
    else:
        print(_describe(summary), file=sys.stderr)
        print(summary.manifest_uri.removesuffix(f"/{MANIFEST_KEY}"))


def _shard(arguments: argparse.Namespace) -> ShardSummary:
    request = ShardRequest(
        source_uri=arguments.source,
        storage_uri=arguments.storage,
        parallelism=common.parallelism_of(arguments),
        dtype=arguments.dtype,
        revision=arguments.revision,
        rules=parse_rules(arguments.rules),
        workers=arguments.workers,
        worker=_worker_index(arguments),
    )
    job = ShardJob(request, common.opener(arguments, "source"), common.opener(arguments, "storage"))
    with (
        _stopped_by_signals(job),
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
def _stopped_by_signals(job: ShardJob) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the Job through its cleanups; a second one ends it at once.

    An exception out of a signal's handler could break off a request whose answer is needed to
    clean up. So while objects are written the handler only asks for the end.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        job.stop()
        if not job.writing:
            raise Terminated("the process was asked to end before it wrote anything")

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _serving(port: int | None, job: ShardJob) -> Iterator[None]:
    """Serve the Job's report while it runs, where a port is given."""
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


def progress_line(job: ShardJob) -> str:
    """Say in one line how far a Job is."""
    progress = job.progress()
    if not progress.bytes:
        return "reading the checkpoint's headers"
    left = (
        "" if progress.remaining_seconds is None else f", {progress.remaining_seconds:.0f} s left"
    )
    return (
        f"{megabytes(progress.bytes_done)} of {megabytes(progress.bytes)} written, "
        f"{megabytes(progress.bytes_per_second)}/s{left}"
    )


def _describe(summary: ShardSummary) -> str:
    if not summary.complete:
        return f"worker {summary.worker} is done; others are not, so there is no manifest yet"
    verb = "found" if summary.reused else "made"
    text = (
        f"{verb} {summary.objects} objects, {megabytes(summary.bytes)}, in {summary.seconds:.1f} s"
    )
    if summary.unmatched.tensors:
        examples = ", ".join(summary.unmatched.examples)
        text += (
            f"\nno rule matched {summary.unmatched.tensors} tensors of "
            f"{megabytes(summary.unmatched.bytes)}, which every rank holds whole: {examples}"
        )
    return text
