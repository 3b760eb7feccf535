"""A rank pod's main process: one child per local rank, and what the cluster sees of them.

It imports no torch: it starts at once, answers probes while its ranks are busy, and says why a
rank that was killed is gone. As process 1 of its container it also reaps what others leave.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from shardedmodel_runtime.http import ReportServer
from shardedmodel_runtime.logs import quieten_torch
from shardedmodel_runtime.process_one import is_init
from shardedmodel_runtime.rank.child import Child, Process, kill, outlasting, spawn
from shardedmodel_runtime.rank.metrics import render
from shardedmodel_runtime.rank.network import interface_of
from shardedmodel_runtime.rank.options import Place, RankOptions
from shardedmodel_runtime.rank.shared_memory import SharedMemory, share
from shardedmodel_runtime.report import GroupReport

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""How soon a child's death or a signal is noticed."""
GRACE_SECONDS = 3.0
"""Between SIGTERM and SIGKILL: with ``KILL_SECONDS`` after it a pod ends within five seconds,
whatever its ranks do and however many they are."""


class Supervisor:
    """Runs the ranks of one pod until one of them ends, or the pod shall.

    Args:
        options: what the pod runs.
        place: where it is.

    Raises:
        ConfigurationError: the pod's name does not tell its ranks.
    """

    def __init__(self, options: RankOptions, place: Place) -> None:
        self._options = options
        self._place = place
        self._first_rank = place.first_rank(options)
        self._children: list[Child] = []
        self._shared: SharedMemory | None = None
        self._terminated = False

    def run(self) -> int:
        """Run the ranks.

        Returns:
            0 after SIGTERM or when all ranks ended well; else the exit code of the first that
            did not, whose failure is in the termination log then.

        Raises:
            ConfigurationError: the port is in use.
            GroupError: the system gives no process for a rank.
        """
        with self._handling_signals(), self._serving() as port:
            logger.info("serving reports on port %d", port)
            try:
                self._start()
                return self._watch()
            finally:
                end_all([child.process for child in self._children])
                self._stop_sharing()

    def report(self) -> str:
        """Give the pod's ``/report``: JSON of a ``GroupReport``."""
        return self._group_report().to_json()

    def is_ready(self) -> bool:
        """Whether all the pod's ranks are ready."""
        return self._has_started() and all(child.is_ready for child in self._children)

    def is_healthy(self) -> bool:
        """Whether all the pod's ranks live, and were heard lately."""
        return all(child.is_healthy for child in self._children)

    def metrics(self) -> str:
        """Give the pod's Prometheus metrics."""
        return render(self._group_report(), [child.report for child in self._children])

    def _group_report(self) -> GroupReport:
        return merge_reports(self._options, self._children)

    def _has_started(self) -> bool:
        return len(self._children) == self._options.local_ranks

    def _start(self) -> None:
        self._options, self._shared = share(self._options, self._first_rank)
        environment = group_environment(self._options, self._place, os.environ)
        for local_rank in range(self._options.local_ranks):
            rank = self._first_rank + local_rank
            child = spawn(self._options, self._place, environment, rank, local_rank)
            self._children.append(child)
            logger.info("rank %d is process %d", rank, child.process.pid)

    def _stop_sharing(self) -> None:
        if self._shared is not None:
            self._shared.remove()

    def _watch(self) -> int:
        while not self._terminated:
            if self.is_ready():
                self._stop_sharing()
            ended = [child for child in self._children if child.has_ended]
            for child in ended:
                failure, code = child.failure()
                if failure is not None:
                    logger.error("rank %d: %s", child.message.rank.rank, failure.message)
                    failure.leave_in(self._options.termination_log)
                    return code
            if len(ended) == len(self._children):
                return 0
            if is_init():
                reap_orphans({child.process.pid for child in self._children})
            time.sleep(POLL_SECONDS)
        return 0

    @contextmanager
    def _serving(self) -> Iterator[int]:
        server = ReportServer(
            self._options.port, self.report, self.is_ready, self.is_healthy, self.metrics
        )
        with server:
            yield server.port

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        former = {
            number: signal.signal(number, self._terminate)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True


def group_environment(
    options: RankOptions, place: Place, environ: Mapping[str, str]
) -> dict[str, str]:
    """Give the variables that all ranks of a pod share, as torch expects them."""
    environment = {
        **environ,
        "WORLD_SIZE": str(options.world_size),
        "LOCAL_WORLD_SIZE": str(options.local_ranks),
        "MASTER_ADDR": place.master_addr,
        "MASTER_PORT": str(place.master_port),
    }
    quieten_torch(environment)
    # gloo would look up the host's name, which need not lead to the address that peers use.
    interface = interface_of(place.pod_ip) if place.pod_ip else ""
    if interface:
        environment.setdefault("GLOO_SOCKET_IFNAME", interface)
    return environment


def merge_reports(options: RankOptions, children: list[Child]) -> GroupReport:
    """Give rank 0's report of the whole group where this pod has it, else of its own ranks.

    What a process says of itself stays as it was when the process hangs; so ranks that fell silent
    are told as lost here, and their group as not formed.
    """
    groups = [child.message.group for child in children if child.message.group is not None]
    own = [child.report for child in children]
    lost = {report.rank: report for report in own if report.state == "lost"}
    for group in groups:
        if group.complete:
            ranks = [lost.get(report.rank, report) for report in group.ranks]
            return group.model_copy(update={"formed": group.formed and not lost, "ranks": ranks})
    if groups:
        formed = groups[0].formed and not lost
        return groups[0].model_copy(update={"formed": formed, "ranks": own})
    return GroupReport(layout_hash=options.layout_hash, world_size=options.world_size, ranks=own)


def end_all(processes: Sequence[Process]) -> None:
    """End processes within ``GRACE_SECONDS`` and ``KILL_SECONDS``, kindly first."""
    for process in processes:
        process.terminate()
    kill(outlasting(processes, GRACE_SECONDS))


def reap_orphans(known: set[int]) -> None:
    """Take the exit status of processes that nobody else waits for."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in known:
            return
        os.waitpid(ended.si_pid, 0)
