from __future__ import annotations

from datetime import timedelta

import pytest

from shardedmodel_operator.planning.failures import Fault, pod_fault, worst
from shardedmodel_operator.planning.objects import Pod
from tests.builders.operator import NOW, PodBuilder, failure


def a_pod() -> PodBuilder:
    return PodBuilder("tiny-0-3", "uid-set")


def fault_of(pod: PodBuilder) -> Fault:
    fault = pod_fault(Pod.from_object(pod.body), "rank 3")
    assert fault is not None
    return fault


CASES: list[tuple[PodBuilder, str, bool, str]] = [
    (
        a_pod().waiting("ErrImagePull", "not found"),
        "ImagePullFailed",
        True,
        "pod tiny-0-3, container rank (rank 3): image 'registry.example/runtime:1' cannot be "
        "pulled (ErrImagePull): not found; check spec.workers.image and the imagePullSecrets of "
        "spec.workers.template",
    ),
    (a_pod().waiting("ImagePullBackOff"), "ImagePullFailed", True, "ImagePullBackOff"),
    (a_pod().waiting("InvalidImageName"), "ImagePullFailed", True, "InvalidImageName"),
    (a_pod().waiting("ErrImageNeverPull"), "ImagePullFailed", True, "ErrImageNeverPull"),
    (
        a_pod().waiting("CreateContainerConfigError", 'secret "models-s3" not found'),
        "SecretNotFound",
        True,
        'secret "models-s3" not found; create the Secret in the model\'s namespace, and the pod '
        "goes on by itself",
    ),
    (
        a_pod().waiting(
            "CreateContainerConfigError",
            "couldn't find key AWS_ACCESS_KEY_ID in Secret models/models-s3",
        ),
        "SecretKeyNotFound",
        True,
        "add the key to the Secret",
    ),
    (
        a_pod().waiting("CreateContainerConfigError", "failed to prepare subPath for volumeMount"),
        "VolumeMountFailed",
        True,
        "check volumes and volumeMounts in spec.workers.template",
    ),
    (
        a_pod().waiting("CreateContainerConfigError", "container has runAsNonRoot"),
        "ContainerCannotStart",
        True,
        "container has runAsNonRoot; check spec.workers.image and spec.workers.template",
    ),
    (
        a_pod().waiting("RunContainerError", 'exec: "shardedmodel": not found in $PATH'),
        "ContainerCannotStart",
        True,
        '"shardedmodel"',
    ),
    (
        a_pod().unschedulable("0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
        "Unschedulable",
        False,
        "pod tiny-0-3 (rank 3) fits on no node: 0/1 nodes are available: 1 Insufficient "
        "nvidia.com/gpu.; it starts as soon as there is room",
    ),
    (a_pod().unschedulable(None), "Unschedulable", False, "no node fits"),
    (
        a_pod().ended(137, reason="OOMKilled"),
        "OutOfMemory",
        True,
        "(exit code 137); raise spec.workers.resources.limits.memory",
    ),
    (
        a_pod().running().ended(137, reason="OOMKilled", state="lastState"),
        "OutOfMemory",
        True,
        "rank 3",
    ),
    (
        a_pod().ended(6, failure("ChecksumMismatch", "block 7 of common/part differs")),
        "ChecksumMismatch",
        True,
        "block 7 of common/part differs (pod tiny-0-3, container rank (rank 3), exit code 6)",
    ),
    (
        a_pod().ended(5, failure("Unavailable", "503", retryable=True)),
        "Unavailable",
        False,
        "503 (pod",
    ),
    (
        a_pod().ended(1, "Traceback: boom"),
        "ContainerFailed",
        False,
        "ended with exit code 1: Traceback: boom",
    ),
    (a_pod().ended(1), "ContainerFailed", False, "kubectl logs tiny-0-3 -c rank says more"),
    (
        a_pod().running().ended(1, state="lastState").restarted(1),
        "ContainerFailed",
        False,
        "kubectl logs tiny-0-3 -c rank --previous says more",
    ),
    (a_pod().ended(137), "ContainerFailed", False, "exit code 137 (SIGKILL)"),
    (a_pod().ended(130), "ContainerFailed", False, "exit code 130 (signal 2)"),
    (
        a_pod().waiting("CrashLoopBackOff").ended(1, state="lastState").restarted(6),
        "CrashLoop",
        False,
        "ended with exit code 1 after 6 restarts",
    ),
    (a_pod().running().ended(0, state="lastState").restarted(9), "CrashLoop", False, "exit code 0"),
    (
        a_pod().failed("Evicted", "The node was low on resource: memory."),
        "Evicted",
        False,
        "pod tiny-0-3 (rank 3) on no node: The node was low on resource: memory.",
    ),
    (a_pod().failed(), "PodFailed", False, "the kubelet gives no reason"),
    (a_pod().failed("node lost!"), "PodFailed", False, "rank 3"),
]


@pytest.mark.parametrize(
    ("pod", "reason", "stalled", "words"), CASES, ids=[f"{c[1]}-{n}" for n, c in enumerate(CASES)]
)
def test_a_broken_pod_is_told_with_a_stable_reason_and_what_to_do(
    pod: PodBuilder, reason: str, stalled: bool, words: str
) -> None:
    fault = fault_of(pod)
    assert (fault.reason, fault.stalled) == (reason, stalled)
    assert words in fault.message
    assert "tiny-0-3" in fault.message


@pytest.mark.parametrize(
    "pod",
    [
        a_pod().waiting("ContainerCreating"),
        a_pod().running(),
        a_pod().ended(0),
        a_pod().running().ended(0, state="lastState").restarted(1),
    ],
)
def test_a_pod_on_its_way_has_no_fault(pod: PodBuilder) -> None:
    assert pod_fault(Pod.from_object(pod.body), "rank 3") is None


def test_foreign_text_is_shortened() -> None:
    fault = fault_of(a_pod().waiting("ErrImagePull", "x" * 5000))
    assert len(fault.message) < 800


def test_what_needs_somebody_goes_before_what_passes() -> None:
    passing, lasting = Fault("A", "", stalled=False), Fault("B", "", stalled=True)
    assert worst([passing, lasting]) == lasting


def test_a_cause_goes_before_the_peers_that_gave_up_because_of_it() -> None:
    gave_up = Fault("GroupError", "", stalled=False, at=NOW)
    cause = Fault("ContainerFailed", "", stalled=False, at=NOW + timedelta(seconds=1))
    assert worst([gave_up, cause]) == cause


def test_of_equal_faults_the_first_is_told() -> None:
    later = Fault("A", "later", stalled=True, at=NOW + timedelta(seconds=1))
    first = Fault("A", "first", stalled=True, at=NOW)
    assert worst([later, first]) == first


def test_without_faults_there_is_none() -> None:
    assert worst([]) is None
