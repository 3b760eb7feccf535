"""The node: a mount, network and process namespace that holds everything of one cluster.

Two commands for :mod:`tests.devcluster.processes`; both return at once, leaving a daemon behind::

    python -m tests.devcluster.node init  RECORD LOG STATE ADDRESS
    python -m tests.devcluster.node spawn RECORD LOG TARGET|- COMMAND…

``init`` makes the namespaces and leaves their first process, which only reaps. When it is killed,
the kernel ends every process in there, and mounts, bridge, rules and network go with the last one:
nothing has to be undone one by one, whatever state a cluster was in.

``spawn`` starts a daemon, inside the namespaces of the process TARGET or, with ``-``, outside.

The functions of the C library are called because Python 3.11 has no ``os.unshare`` and no
``os.setns``; ``nsenter`` would not tell the daemon's pid.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from tests.devcluster.processes import Process
from tests.devcluster.settings import NODE_STATE

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

#: The kubelet demands these values and would set them for the whole machine. It sees files with
#: the wanted values in their place, so the machine keeps its own.
KUBELET_SYSCTLS = {
    "kernel/keys/root_maxbytes": "25000000",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: int) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def init(record: Path, log: Path, state: Path, address: str) -> None:
    """Makes the namespaces and leaves their first process behind, once it has set them up."""
    _call("unshare", CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET)
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        _detach(log)
        _set_up(state, address)
        os.write(tell, b"1")
        os.close(tell)
        _reap()
    os.close(tell)
    Process.of(child).save(record)
    if os.read(ready, 1) != b"1":
        sys.exit(1)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _set_up(state: Path, address: str) -> None:
    # Mounts of the host still arrive here, ours never arrive there; within the node they are
    # shared, which is what containerd needs for volumes that follow the host.
    _mount("--make-rslave", "/")
    _mount("--make-rshared", "/")
    _mount("-t", "proc", "proc", "/proc")
    _hide_folders(state)
    for name, value in KUBELET_SYSCTLS.items():
        _shadow(Path("/proc/sys") / name, value + "\n")
    # Only the cluster's own DNS can be reached from here; the host's servers would just time out.
    _shadow(Path("/etc/resolv.conf"), f"nameserver {address}\n")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


def _hide_folders(state: Path) -> None:
    """Gives the node its own version of those folders of the host in which it would leave traces.

    /run holds sockets, locks and the pods' network namespaces. To /var/lib kubelet and network
    plugins write at fixed places, and to /var/log the pods' logs, which are kept with the others.
    """
    outside = os.open(state, os.O_PATH)
    inside = f"/proc/self/fd/{outside}"
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for folder in ("node", "netns", "lock", "shadow", "upper", "work"):
        (Path("/run") / folder).mkdir()
    subprocess.run(["mount", "--bind", inside, NODE_STATE], check=True, pass_fds=[outside])
    os.close(outside)
    layers = "lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work"
    _mount("-t", "overlay", "-o", layers, "overlay", "/var/lib")
    (NODE_STATE / "logs" / "pods").mkdir(parents=True, exist_ok=True)
    _mount("--bind", NODE_STATE / "logs" / "pods", "/var/log")
    # The state folder itself may be below one of these.
    state.mkdir(parents=True, exist_ok=True)
    _mount("--bind", NODE_STATE, state)


def _shadow(path: Path, text: str) -> None:
    """Puts a file in the place of another, for this node only."""
    if path.exists():
        other = Path("/run/shadow") / str(path).strip("/").replace("/", ".")
        other.write_text(text)
        _mount("--bind", other, path.resolve())


def _reap() -> NoReturn:
    """Waits for the orphans of the namespace, as its first process must, until it is killed."""
    # Blocked before the first look, so that no child can end unnoticed between look and wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwait({signal.SIGCHLD})


def spawn(record: Path, log: Path, target: str, command: list[str]) -> None:
    """Starts a daemon in the namespaces of a process and records its pid as seen from here."""
    flags = {} if target == "-" else {"net": CLONE_NEWNET, "mnt": CLONE_NEWNS}
    files = {os.open(f"/proc/{target}/ns/{kind}", os.O_RDONLY): flags[kind] for kind in flags}
    if target != "-":
        processes = os.open(f"/proc/{target}/ns/pid", os.O_RDONLY)
        # It holds for children only: this process still sees the pids of the host.
        _call("setns", processes, CLONE_NEWPID)
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        _detach(log)
        for file, flag in files.items():
            _call("setns", file, flag)
            os.close(file)
        # Not before the record is written: nothing runs that no record tells of.
        os.read(wait, 1)
        os.execv(command[0], command)
    os.close(wait)
    Process.of(child).save(record)
    os.write(go, b"1")


def _detach(log: Path) -> None:
    os.setsid()
    os.chdir("/")
    log.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def main(arguments: list[str]) -> None:
    """Runs one of the two commands."""
    command, record, log, *rest = arguments
    if command == "init":
        init(Path(record), Path(log), Path(rest[0]), rest[1])
    else:
        spawn(Path(record), Path(log), rest[0], rest[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
