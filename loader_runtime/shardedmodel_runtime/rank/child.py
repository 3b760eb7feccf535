"""One rank process as its supervisor sees it: what it says, whether it lives, how it ended."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError

from shardedmodel_runtime.errors import GroupError, excerpt
from shardedmodel_runtime.rank.options import Place, RankOptions
from shardedmodel_runtime.rank.pipe import RankMessage
from shardedmodel_runtime.report import Failure, RankReport

logger = logging.getLogger(__name__)

Process = subprocess.Popen[bytes]

SILENCE_SECONDS = 60.0
"""A rank that said nothing for so long does not live: 120 reports are missing, which a busy node
does not explain, but a deadlock does."""
READY_SILENCE_SECONDS = 5.0
"""A rank that said nothing for so long is not called ready: its peers call it lost by then."""
LAST_WORDS_SECONDS = 2.0
"""Between a rank's failure and its end: a read that hangs or a group whose peers are dead may keep
it from ending, and a rank that ended may have words in the pipe."""
KILL_SECONDS = 1.0
"""For SIGKILL to end processes, however many; one that the kernel holds, in a read of a dead file
system, does not end, and must not keep its supervisor."""
SIGNAL_EXIT_CODE = 128
"""What shells, and the kubelet, add to the number of the signal that ended a process."""


class Child:
    """One rank process.

    Args:
        report: how the rank stands before it said anything.
        process: what runs it.
        descriptor: the pipe's reading end, which is closed at its end.
    """

    def __init__(
        self, report: RankReport, process: subprocess.Popen[bytes], descriptor: int
    ) -> None:
        self.process = process
        self.message = RankMessage(rank=report)
        self._heard = time.monotonic()
        self._failed_at: float | None = None
        self._reader = threading.Thread(target=self._read, args=(descriptor,), daemon=True)
        self._reader.start()

    @property
    def report(self) -> RankReport:
        """How the rank stands: one that was ready and fell silent is lost, as its peers call it."""
        if not self.is_lost:
            return self.message.rank
        text = f"no sign of life for {READY_SILENCE_SECONDS:.0f} s"
        return self.message.rank.model_copy(update={"state": "lost", "message": text})

    @property
    def is_lost(self) -> bool:
        """Whether the rank said that it is ready, but not lately."""
        silent = time.monotonic() - self._heard >= READY_SILENCE_SECONDS
        return silent and self.message.rank.state == "ready"

    @property
    def is_ready(self) -> bool:
        """Whether the rank lives, says that it is ready, and said so lately."""
        return self.is_healthy and self.report.state == "ready"

    @property
    def is_healthy(self) -> bool:
        """Whether the rank lives and was heard lately."""
        return self.process.poll() is None and time.monotonic() - self._heard < SILENCE_SECONDS

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, or told why it gives up and then hangs."""
        failed_at = self._failed_at
        hangs = failed_at is not None and time.monotonic() - failed_at > LAST_WORDS_SECONDS
        return hangs or self.process.poll() is not None

    def failure(self) -> tuple[Failure | None, int]:
        """Say how the process ended, once it has; see ``describe_end``."""
        if self.process.poll() is None:
            kill([self.process])
        self._reader.join(LAST_WORDS_SECONDS)
        status = self.process.poll()
        return describe_end(self.message, -signal.SIGKILL if status is None else status)

    def _read(self, descriptor: int) -> None:
        with open(descriptor, "rb") as lines:
            for line in lines:
                try:
                    self.hear(RankMessage.model_validate_json(line))
                except ValidationError:
                    logger.error("not a message of a rank: %s", excerpt(repr(line)))

    def hear(self, message: RankMessage) -> None:
        """Take what the rank said."""
        self.message = message
        self._heard = time.monotonic()
        if message.failure is not None and self._failed_at is None:
            self._failed_at = self._heard


def spawn(
    options: RankOptions, place: Place, environment: Mapping[str, str], rank: int, local_rank: int
) -> Child:
    """Start one rank process, with the variables that torch expects.

    Args:
        options: what the pod runs.
        place: where it is.
        environment: variables that all ranks of the pod share.
        rank: of the process.
        local_rank: its index in the pod.

    Raises:
        GroupError: the system gives no process.
    """
    reading, writing = os.pipe()
    own = {"RANK": str(rank), "LOCAL_RANK": str(local_rank)}
    try:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "shardedmodel_runtime.rank.worker",
                options.model_dump_json(),
                str(writing),
            ],
            env={**environment, **own},
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        os.close(reading)
        raise GroupError(
            f"rank {rank}: its process cannot be started: {excerpt(error.strerror or str(error))}; "
            "give the pod more processes (pids) or memory"
        ) from error
    finally:
        os.close(writing)
    return Child(RankReport(rank=rank, pod=place.pod, node=place.node), process, reading)


def describe_end(message: RankMessage, status: int) -> tuple[Failure | None, int]:
    """Say why a rank ended, and the exit code that follows for the pod.

    Args:
        message: its last one.
        status: its exit code, negative for a signal's number.

    Returns:
        The failure, None when it ended well; and the pod's exit code.
    """
    if message.failure is not None:
        return message.failure, message.exit_code
    if status == 0:
        return None, 0
    code = status if status > 0 else SIGNAL_EXIT_CODE - status
    rank = message.rank.rank
    if status > 0:
        text = f"rank {rank} ended with exit code {status} without saying why; see the log"
        return Failure(reason="RankFailed", message=text), code
    text = f"rank {rank} was killed by {_name_of(-status)}"
    if -status == signal.SIGKILL:
        peak = message.rank.peak_memory_bytes // 2**20
        text += (
            f", as the kernel does when memory runs out (its peak was {peak} MiB at the last "
            "report); raise workers.resources.limits.memory"
        )
    return Failure(reason="RankKilled", message=text, retryable=True), code


def kill(processes: Sequence[Process]) -> None:
    """Kill processes at once and take their exit statuses, unless the kernel holds them."""
    for process in processes:
        process.kill()
    for process in outlasting(processes, KILL_SECONDS):
        logger.error("process %d does not end by SIGKILL; it is left behind", process.pid)


def outlasting(processes: Iterable[Process], seconds: float) -> list[Process]:
    """Wait so long for all processes together; give those that have not ended then."""
    deadline = time.monotonic() + seconds
    left = []
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            left.append(process)
    return left


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
