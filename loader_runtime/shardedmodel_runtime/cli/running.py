"""What commands that make a layout share: signals, the progress line, and the summary."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from shardedmodel_runtime.cli.output import counted, show, show_error, tell
from shardedmodel_runtime.cli.progress import decimal_size
from shardedmodel_runtime.errors import Terminated
from shardedmodel_runtime.layout.job import ShardJob
from shardedmodel_runtime.layout.uploads import asked_to_end
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.report import ShardSummary

UNDER_WAY_SECONDS = 2.0
"""For requests that are under way when a Job is asked to end: a part of 16 MiB over 70 Mb/s."""
DROP_SECONDS = 2.0
"""For dropping what is unfinished after that: two small requests for each upload, side by side.
With it a Job ends within five seconds."""


class _AskedToEnd(BaseException):
    """Out of a signal's handler: no library's ``except Exception`` takes it for its own failure."""


def print_summary(summary: ShardSummary, *, as_json: bool) -> None:
    """Print the layout's address on stdout and what was done on stderr, or all of it as JSON."""
    if as_json:
        show(summary.to_json())
    else:
        tell(_describe(summary))
        show(summary.manifest_uri.removesuffix(f"/{MANIFEST_KEY}"))


@contextmanager
def stopped_by_signals(
    job: ShardJob, told: Callable[[Terminated], None] = lambda error: None
) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the Job through its cleanups; a second one ends it at once.

    An exception out of a signal's handler could break off a request whose answer is needed to
    clean up. So while objects are written the handler only asks for the end. A Job that waits for
    a store then, which may take minutes, is not waited for.

    Args:
        job: what is ended.
        told: told of the end where the process ends without returning from here.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        job.stop()
        asked.set()
        if not job.writing:
            raise _AskedToEnd

    with _not_waited_for(job, told) as asked, _handled(handle, signal.SIGTERM, signal.SIGINT):
        yield


@contextmanager
def _not_waited_for(job: ShardJob, told: Callable[[Terminated], None]) -> Iterator[threading.Event]:
    """End the process some time after the event is set, unless this is left before."""
    asked, left = threading.Event(), threading.Event()

    def watch() -> None:
        asked.wait()
        if left.wait(UNDER_WAY_SECONDS):
            return
        job.abandon(DROP_SECONDS)
        if left.is_set():
            return
        error = asked_to_end()
        told(error)
        with suppress(OSError):  # nobody reads it
            show_error(error)
        os._exit(error.exit_code)  # threads that wait for a store would keep the interpreter

    # It is begun before it is needed: a signal's handler may come while a lock is held.
    watching = threading.Thread(target=watch, name="end", daemon=True)
    watching.start()
    try:
        yield asked
    finally:
        left.set()
        asked.set()
        watching.join()


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command through its cleanups, as SIGINT does; a second one at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise _AskedToEnd

    with _handled(handle, signal.SIGTERM):
        yield


@contextmanager
def _handled(
    handle: Callable[[int, FrameType | None], None], *numbers: signal.Signals
) -> Iterator[None]:
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    except _AskedToEnd:
        raise Terminated("the process was asked to end before anything was published") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress_line(job: ShardJob) -> str:
    """Say in one line how far a Job is."""
    progress = job.progress()
    if not progress.bytes:
        return "reading the checkpoint's headers"
    left = (
        "" if progress.remaining_seconds is None else f", {progress.remaining_seconds:.0f} s left"
    )
    return (
        f"{decimal_size(progress.bytes_done)} of {decimal_size(progress.bytes)} written, "
        f"{decimal_size(progress.bytes_per_second)}/s{left}"
    )


def _describe(summary: ShardSummary) -> str:
    if not summary.complete:
        return f"worker {summary.worker} is done; others are not, so there is no manifest yet"
    verb = "found" if summary.reused else "made"
    size = decimal_size(summary.bytes)
    text = f"{verb} {counted(summary.objects, 'object')}, {size}, in {summary.seconds:.1f} s"
    if summary.unmatched.tensors:
        examples = ", ".join(summary.unmatched.examples)
        text += (
            f"\nno rule matched {counted(summary.unmatched.tensors, 'tensor')} of "
            f"{decimal_size(summary.unmatched.bytes)}, which every rank holds whole: {examples}"
        )
    return text
