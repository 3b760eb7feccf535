"""The cluster as a whole: up, down, and what is done to it in between."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.devcluster import (
    archives,
    binaries,
    cgroups,
    components,
    credentials,
    network,
    node_config,
    packages,
    readiness,
)
from tests.devcluster.api import Api
from tests.devcluster.errors import (
    ComponentError,
    DevClusterError,
    LeftoverError,
    MissingError,
)
from tests.devcluster.processes import NODE, Supervisor
from tests.devcluster.runtime import Runtime
from tests.devcluster.settings import Slot
from tests.devcluster.shell import Progress, lock, silent

#: Some 4 s are usual for the API server and 15 s for the node; a busy machine takes longer.
READY_SECONDS = 120.0

#: Until a condition holds.
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Status:
    """What of a cluster runs.

    Attributes:
        slot: Its number.
        up: Whether all that was started runs and the API server answers.
        mode: ``full``, ``control-plane`` or ``down``.
        server: The API server's version, None if it does not answer.
        components: For each component that was started, whether it runs.
        kubeconfig: The administrator's.
        logs: The folder of the components' logs.
    """

    slot: int
    up: bool
    mode: str
    server: str | None
    components: dict[str, bool]
    kubeconfig: str
    logs: str


class Cluster:
    """One development cluster.

    Args:
        slot: 0 to 9; clusters of different slots do not meet.
    """

    def __init__(self, slot: int = 0) -> None:
        self.slot = Slot(slot)
        self._supervisor = Supervisor(self.slot)
        self._runtime = Runtime(self._supervisor)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.slot.kubeconfig

    @property
    def host_address(self) -> str:
        """This host, as pods see it: a server on it can be reached there."""
        return self.slot.host_address

    @property
    def api(self) -> Api:
        """A minimal client with the administrator's rights."""
        return Api(self.kubeconfig)

    def up(
        self,
        *,
        control_plane_only: bool = False,
        controllers: bool = False,
        progress: Progress = silent,
    ) -> None:
        """Brings the cluster up; one that is up is left as it is, a broken one is made anew.

        Args:
            control_plane_only: Only etcd and the API server, on 127.0.0.1.
            controllers: With ``control_plane_only``, the controller-manager as well.
            progress: Receives lines that say what is being done.

        Raises:
            DevClusterError: It did not come up; the message names component and log.
        """
        with lock(self.slot.state.with_suffix(".lock"), "another up or down", progress):
            names = list(components.CONTROL_PLANE)
            if not control_plane_only:
                names += components.RUNTIME
            if controllers or not control_plane_only:
                names += components.CONTROLLERS
            if not control_plane_only:
                names += components.NODE
            status = self.status()
            if status.up and set(names) <= set(status.components):
                progress(f"slot {self.slot.number} is up already")
                return
            programs = [name for name in names if name in components.PROGRAMS]
            self._require_packages(control_plane_only, programs, progress)
            found = binaries.ensure(programs, progress)
            self._down({self.slot.containerd_root.name})
            self._start(names, found, progress)

    def _require_packages(
        self, control_plane_only: bool, programs: list[str], progress: Progress
    ) -> None:
        wanted = set(packages.CONTROL_PLANE)
        if not control_plane_only:
            if os.geteuid() != 0:
                raise MissingError("a node needs root; as a user, there is --control-plane-only")
            wanted |= set(packages.NODE)
        if binaries.is_found("etcd"):
            wanted.discard("etcd-server")
        if binaries.to_build(programs):
            wanted |= set(packages.KUBERNETES_BUILD)
        packages.ensure(wanted, progress)

    def _start(self, names: list[str], found: binaries.Binaries, progress: Progress) -> None:
        full = "kubelet" in names
        address = self.slot.node_address if full else "127.0.0.1"
        started = time.monotonic()
        for folder in (self.slot.logs, self.slot.pids, self.slot.state / "dns"):
            folder.mkdir(parents=True, exist_ok=True)
        self.slot.state.chmod(0o700)
        credentials.create(self.slot, address)
        if full:
            self._start_node(found)
        commands = components.Commands(self.slot, found, address)
        for name in names:
            (self.slot.config / f"{name}.command").write_text("\0".join(commands.of(name)))
        early = {*components.CONTROL_PLANE, *components.RUNTIME}
        for name in (name for name in names if name in early):
            self.start_component(name)
            if name == "containerd":
                self._wait(name, self._runtime.is_ready)
        if full:
            self.load_image(archives.pause_archive(node_config.PAUSE_IMAGE))
        self.wait_for_server()
        progress(f"API server ready after {time.monotonic() - started:.1f} s")
        for name in (name for name in names if name not in early):
            self.start_component(name)
        if full:
            self._wait("kubelet", self._answers(readiness.node))
            self._wait("kube-controller-manager", self._answers(readiness.accounts))
            self._wait("dns", (self.slot.state / "dns" / "cluster").exists)
            progress(f"node ready after {time.monotonic() - started:.1f} s")

    def _start_node(self, found: binaries.Binaries) -> None:
        cgroups.create(self.slot)
        (self.slot.state / "kubelet").mkdir(exist_ok=True)
        node_config.write(self.slot, found.version("kubelet"), components.CONTAINERD_SOCKET)
        self._supervisor.start_node()
        node = self._supervisor.process(NODE)
        if node is None:
            raise ComponentError(NODE, "ended at once", self._supervisor.log(NODE))
        network.connect(self.slot, node.pid, self._supervisor.in_node([]))

    def down(self, *, keep_images: bool = True, progress: Progress = silent) -> None:
        """Takes the cluster away; nothing of it remains but images and, until ``up``, its logs.

        Args:
            keep_images: Keep the imported images for the next ``up`` of this slot.
            progress: Receives lines that say what is being done.

        Raises:
            LeftoverError: Something could not be removed.
        """
        with lock(self.slot.state.with_suffix(".lock"), "another up or down", progress):
            # A test's error names the logs, and is read after the cluster has gone.
            kept = {self.slot.logs.name}
            self._down(kept | {self.slot.containerd_root.name} if keep_images else kept)

    def _down(self, kept: set[str]) -> None:
        self._supervisor.end_all()
        network.disconnect(self.slot)
        cgroups.remove(self.slot)
        if found := self.leftovers():
            raise LeftoverError(found)
        if self.slot.state.is_dir():
            for path in self.slot.state.iterdir():
                if path.name not in kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not any(self.slot.state.iterdir()):
                self.slot.state.rmdir()

    def leftovers(self) -> list[str]:
        """Returns what there is of this cluster outside of its folder: nothing, after ``down``."""
        found = [f"process {process.pid}" for process in self._supervisor.marked()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in mounts]
        found += [f"mount {point}" for point in points if point.startswith(f"{self.slot.state}/")]
        found += [f"control group {group}" for group in cgroups.leftovers(self.slot)]
        if network.is_connected(self.slot):
            found.append(f"network link {self.slot.host_link}")
        return found

    @contextmanager
    def running(
        self, *, control_plane_only: bool = False, progress: Progress = silent
    ) -> Iterator[Cluster]:
        """Has the cluster up while the body runs, and takes it away afterwards."""
        try:
            self.up(control_plane_only=control_plane_only, progress=progress)
            yield self
        finally:
            self.down()

    def is_up(self) -> bool:
        """Whether all that was started runs and the API server answers."""
        return self.status().up

    def status(self) -> Status:
        """Returns what runs."""
        names = sorted(path.stem for path in self.slot.config.glob("*.command"))
        running = {name: self._supervisor.process(name) is not None for name in names}
        mode = "full" if "kubelet" in names else "control-plane" if names else "down"
        server = readiness.version(self.api) if running.get("kube-apiserver") else None
        return Status(
            slot=self.slot.number,
            up=server is not None and all(running.values()),
            mode=mode,
            server=server,
            components=running,
            kubeconfig=str(self.kubeconfig),
            logs=str(self.slot.logs),
        )

    def start_component(self, name: str) -> None:
        """Starts a component that was stopped, with the command line that it had.

        Raises:
            DevClusterError: It was never started in this cluster, or cannot be now.
        """
        if self._supervisor.process(name):
            return
        try:
            command = (self.slot.config / f"{name}.command").read_text().split("\0")
        except OSError as error:
            raise DevClusterError(f"slot {self.slot.number} has no component {name}") from error
        self._supervisor.start(name, command)

    def kill_component(self, name: str) -> None:
        """Ends a component by SIGKILL; :meth:`start_component` brings it back."""
        self._supervisor.stop(name, grace=0)

    def wait_for_server(self, seconds: float = READY_SECONDS) -> None:
        """Waits until the API server is ready, such as after it was started again."""
        self._wait("kube-apiserver", self._answers(readiness.server), seconds)

    def load_image(self, *archives: Path, progress: Progress = silent) -> None:
        """Imports docker or OCI archives into the node; what it has already is skipped.

        Raises:
            DevClusterError: There is no node, or an archive is not one.
        """
        for archive in archives:
            self._runtime.load(archive, progress)

    def tag_image(self, name: str, other: str) -> None:
        """Gives an image of the node a further name.

        Raises:
            DevClusterError: There is no node, or it has no such image.
        """
        self._runtime.tag(name, other)

    def pod_processes(self, uid: str) -> list[int]:
        """Returns the host's pids of a pod's containers, the first that was started first."""
        return cgroups.pod_processes(self.slot, uid)

    def _answers(self, question: Callable[[Api], bool]) -> Callable[[], bool]:
        return lambda: question(self.api)

    def _wait(
        self, component: str, ready: Callable[[], bool], seconds: float = READY_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            for name in self._supervisor.names():
                if self._supervisor.process(name) is None:
                    raise ComponentError(name, "ended", self._supervisor.log(name))
            if time.monotonic() > deadline:
                log = self._supervisor.log(component)
                raise ComponentError(component, f"was not ready within {seconds:.0f} s", log)
            time.sleep(_POLL_SECONDS)


def require_up(cluster: Cluster) -> None:
    """Refuses to go on with a cluster that is not up.

    Raises:
        MissingError: Says how to bring it up.
    """
    if not cluster.is_up():
        slot = cluster.slot.number
        raise MissingError(f"slot {slot} is not up; python -m tests.devcluster up --slot {slot}")
