"""The control group of a slot, below which its kubelet makes those of the pods."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tests.devcluster.processes import Process
from tests.devcluster.settings import Slot

_ROOT = Path("/sys/fs/cgroup")

#: An ended container's group stays busy for some milliseconds.
_REMOVE_SECONDS = 5.0


def _hierarchies() -> list[Path]:
    """Returns the one hierarchy of version 2, or those of version 1."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink()]


def create(slot: Slot) -> None:
    """Makes the slot's group in every hierarchy, as the kubelet demands of its cgroupRoot."""
    for hierarchy in _hierarchies():
        group = hierarchy / slot.cgroup
        group.mkdir(exist_ok=True)
        # In cpuset of version 1 a new group has no CPU and no memory until it is told.
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / name).exists():
                (group / name).write_text((hierarchy / name).read_text())
        if (group / "cgroup.controllers").exists():
            _delegate(hierarchy, group)


def _delegate(hierarchy: Path, group: Path) -> None:
    """Hands every controller of version 2 down to the group's children."""
    for folder in (hierarchy, group):
        for controller in (folder / "cgroup.controllers").read_text().split():
            # A controller that cannot be handed down is one that the kubelet does not need.
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def leftovers(slot: Slot) -> list[Path]:
    """Returns the slot's groups that exist."""
    groups = (hierarchy / slot.cgroup for hierarchy in _hierarchies())
    return [group for group in groups if group.is_dir()]


def pod_processes(slot: Slot, uid: str) -> list[int]:
    """Returns the host's pids of a pod's containers, the first that was started first.

    The pause container, which holds the pod's network, is not among them.
    """
    for group in leftovers(slot):
        files = group.glob(f"kubepods/**/pod{uid}/*/cgroup.procs")
        if pids := [int(pid) for file in files for pid in file.read_text().split()]:
            return [pid for _, pid in sorted(_by_start(pids))]
    return []


def _by_start(pids: list[int]) -> Iterator[tuple[int, int]]:
    for pid in pids:
        # One that ends meanwhile is no process of the pod any more.
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() != "pause":
                yield Process.of(pid).started, pid


def remove(slot: Slot) -> None:
    """Removes the slot's groups with all that is below, once their processes have ended."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while groups := leftovers(slot):
        for group in groups:
            children = [path for path in group.rglob("*") if path.is_dir()]
            for folder in [*sorted(children, reverse=True), group]:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        if time.monotonic() > deadline:
            return
        if leftovers(slot):
            time.sleep(0.05)
