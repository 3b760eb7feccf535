"""From the states of pods to what is wrong, in words for people at three in the morning.

Kubernetes spreads the reasons over pod phases, conditions, waiting and terminated states; here
they become one ``Fault`` with a stable reason, which names pod, container, rank and exit code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from shardedmodel_operator.planning.objects import ContainerStatus, Pod, Termination
from shardedmodel_runtime.errors import excerpt
from shardedmodel_runtime.report import Failure

TEXT_LIMIT = 400
"""Characters kept of the kubelet's and the scheduler's sentences: they say the essential late."""
CRASH_LOOP_RESTARTS = 5
"""Restarts after which a container that gives no reason counts as unable to start: the kubelet's
back-off has reached minutes by then."""
IMAGE_REASONS = frozenset(
    {
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
    }
)
"""Why the kubelet keeps a container waiting when it is the image."""
SIGNAL_BASE = 128
"""Exit codes above it are 128 + the signal that killed the process (POSIX shells, containerd)."""
SIGNALS = {6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}

CONSEQUENCES = ("GroupError", "Terminated")
"""What a container says when it ended because of another."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong. ``stalled``: it stays until somebody acts; else it is expected to pass."""

    reason: str
    message: str
    stalled: bool
    at: datetime | None = None
    """When a container ended of it; None for what has not ended."""


def pod_fault(pod: Pod, who: str) -> Fault | None:
    """What is wrong with a pod that is not ready, if anything.

    Args:
        pod: the pod.
        who: what it holds, for messages: ``rank 3``, or ``attempt 2``.
    """
    if pod.unschedulable:
        return Fault(
            "Unschedulable",
            f"pod {pod.meta.name} ({who}) fits on no node: "
            f"{excerpt(pod.unschedulable, TEXT_LIMIT)}; it starts as soon as there is room",
            stalled=False,
        )
    faults = (_container_fault(pod, container, who) for container in pod.containers)
    found = next((fault for fault in faults if fault is not None), None)
    return found or _whole_pod_fault(pod, who)


def _whole_pod_fault(pod: Pod, who: str) -> Fault | None:
    """A pod that the kubelet or the node's end took away (Evicted, NodeLost, …)."""
    if pod.phase != "Failed":
        return None
    text = excerpt(pod.message, TEXT_LIMIT) or "the kubelet gives no reason"
    reason = pod.reason if pod.reason.isalnum() and pod.reason[:1].isupper() else "PodFailed"
    return Fault(reason, f"pod {pod.meta.name} ({who}) on {pod.node or 'no node'}: {text}", False)


def _container_fault(pod: Pod, container: ContainerStatus, who: str) -> Fault | None:
    place = f"pod {pod.meta.name}, container {container.name} ({who})"
    fault = _waiting_fault(container, place)
    if fault is not None:
        return fault
    ended = container.terminated or container.last_terminated
    if ended is None or (ended.exit_code == 0 and container.restarts < CRASH_LOOP_RESTARTS):
        return None
    return _ended_fault(ended, container, pod, place)


def _waiting_fault(container: ContainerStatus, place: str) -> Fault | None:
    reason, text = container.waiting_reason, excerpt(container.waiting_message, TEXT_LIMIT)
    if reason in IMAGE_REASONS:
        return Fault(
            "ImagePullFailed",
            f"{place}: image {container.image!r} cannot be pulled ({reason}): {text}; check "
            "spec.workers.image and the imagePullSecrets of spec.workers.template",
            stalled=True,
        )
    if reason not in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return None
    lower = text.lower()
    if "secret" in lower:
        missing_key = "find key" in lower
        return Fault(
            "SecretKeyNotFound" if missing_key else "SecretNotFound",
            f"{place}: {text}; {'add the key to' if missing_key else 'create'} the Secret in the "
            "model's namespace, and the pod goes on by itself",
            stalled=True,
        )
    if any(word in lower for word in ("volume", "mount", "subpath")):
        return Fault(
            "VolumeMountFailed",
            f"{place}: {text}; check volumes and volumeMounts in spec.workers.template",
            stalled=True,
        )
    return Fault(
        "ContainerCannotStart",
        f"{place}: {reason}: {text}; check spec.workers.image and spec.workers.template",
        stalled=True,
    )


def _ended_fault(ended: Termination, container: ContainerStatus, pod: Pod, place: str) -> Fault:
    if ended.reason == "OOMKilled":
        return Fault(
            "OutOfMemory",
            f"{place} was killed for using more memory than its limit or its node has "
            f"(exit code {ended.exit_code}); raise spec.workers.resources.limits.memory or use "
            "more ranks",
            stalled=True,
            at=ended.finished_at,
        )
    told = told_failure(ended.message)
    if told is not None:
        return Fault(
            told.reason,
            f"{told.message} ({place}, exit code {ended.exit_code})",
            stalled=not told.retryable,
            at=ended.finished_at,
        )
    text = excerpt(ended.message, TEXT_LIMIT)
    looping = container.restarts >= CRASH_LOOP_RESTARTS
    return Fault(
        "CrashLoop" if looping else "ContainerFailed",
        f"{place} ended with exit code {ended.exit_code}{_signal(ended.exit_code)}"
        + (f" after {container.restarts} restarts" if looping else "")
        + (f": {text}" if text else f"; {_log(container, pod)} says more"),
        stalled=False,
        at=ended.finished_at,
    )


def _log(container: ContainerStatus, pod: Pod) -> str:
    """The command that shows the log of the container that ended."""
    former = "" if container.terminated else " --previous"
    return f"kubectl logs {pod.meta.name} -c {container.name}{former}"


def _signal(exit_code: int) -> str:
    number = exit_code - SIGNAL_BASE
    return f" ({SIGNALS.get(number, f'signal {number}')})" if number > 0 else ""


def told_failure(message: str) -> Failure | None:
    """What a container of ours said of itself in its termination message, if it is that."""
    try:
        return Failure.read(message)
    except ValidationError:
        return None


def worst(faults: Iterable[Fault]) -> Fault | None:
    """The fault to report: what needs somebody first, then causes before their consequences.

    A rank that dies makes its peers give up with ``GroupError`` moments later, and a worker of a
    Job that fails gets the others ``Terminated``; the first one that ended, for another reason, is
    the cause.
    """

    def order(fault: Fault) -> tuple[bool, bool, bool, float]:
        ended = fault.at.timestamp() if fault.at else 0.0
        return (not fault.stalled, fault.reason in CONSEQUENCES, fault.at is None, ended)

    return min(faults, key=order, default=None)
