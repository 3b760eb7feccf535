"""Killing: processes of pods with SIGKILL, and pods without grace."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demo.kubectl import Kubectl
from demo.scenario import DEMO_NAMESPACE, SYSTEM_NAMESPACE
from tests.devcluster import Cluster
from tests.soak.state import PATHS, Object, is_leaving, label_of, name_of

LEASE_PATH = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/leases"
SYSTEM_PODS = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/pods"
OPERATOR = "shardedmodel-operator"
WAYS = ("container", "last process", "pod")
"""How a pod ends: the first process of its container is killed, which ends all of it; the process
that was started last, which in a rank pod is a rank; or the pod is deleted without grace."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What can be done to one cluster. Each gives what it hit; empty: there was nothing to hit."""

    cluster: Cluster
    kubectl: Kubectl

    def kill_pod_of(self, model: str, role: str, pick: int) -> str:
        """End a pod of a model, as ``pick`` says which and how."""
        pods = [
            pod
            for pod in self._pods(PATHS["Pod"])
            if (label_of(pod, "model"), label_of(pod, "role")) == (model, role)
            and pod["status"].get("phase") in ("Pending", "Running")
        ]
        if not pods:
            return ""
        pod, way = pods[pick % len(pods)], WAYS[pick // len(pods) % len(WAYS)]
        if way == "pod":
            forced = ("--grace-period=0", "--force", "--wait=false", "--ignore-not-found")
            self.kubectl.run("delete", "pod", name_of(pod), "-n", DEMO_NAMESPACE, *forced)
            return f"pod {name_of(pod)}"
        pids = self.cluster.pod_processes(pod["metadata"]["uid"])
        return _kill(pids[-1:] if way == "last process" else pids[:1], f"{way} of {name_of(pod)}")

    def kill_operator(self) -> str:
        """Kill the operator that leads; the first, where none does."""
        pods = self.operators()
        leases = self.cluster.api.get(LEASE_PATH)["items"]
        holders = [lease["spec"].get("holderIdentity") or "" for lease in leases]
        pods.sort(key=lambda pod: not any(h.startswith(f"{name_of(pod)}_") for h in holders))
        return self._kill_first(pods)

    def kill_store(self) -> str:
        """Kill the S3 server; what it has written stays."""
        pods = self._pods(PATHS["Pod"])
        return self._kill_first([pod for pod in pods if name_of(pod).startswith("seaweedfs-")])

    def operators(self) -> list[dict[str, Any]]:
        """Pods of the operator."""
        return [p for p in self._pods(SYSTEM_PODS) if name_of(p).startswith(OPERATOR)]

    def _pods(self, path: str) -> list[dict[str, Any]]:
        pods = self.cluster.api.get(path)["items"]
        return sorted((pod for pod in pods if not is_leaving(pod)), key=name_of)

    def _kill_first(self, pods: Sequence[Object]) -> str:
        for pod in pods:
            pids = self.cluster.pod_processes(pod["metadata"]["uid"])
            if hit := _kill(pids[:1], name_of(pod)):
                return hit
        return ""


def _kill(pids: Sequence[int], what: str) -> str:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return what
    return ""
