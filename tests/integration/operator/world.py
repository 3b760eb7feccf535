"""What the operator's integration tests need: an administrator, a kubelet of paper, a process.

There is no kubelet and no controller behind the API server: pods are made and moved by
``PaperKubelet``, so that a test decides what the operator gets to see, and when.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import kubernetes

from shardedmodel_runtime.report import Failure, ShardSummary

Found = TypeVar("Found")
Json = dict[str, Any]

WAIT_SECONDS = 20.0
"""Longest wait for what takes milliseconds on an idle machine."""
POLL_SECONDS = 0.05

MODELS = "/apis/shardedmodel.dev/v1alpha1/namespaces/{}/shardedmodels"
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
SETS = "/apis/apps/v1/namespaces/{}/statefulsets"
SERVICES = "/api/v1/namespaces/{}/services"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
BUDGETS = "/apis/policy/v1/namespaces/{}/poddisruptionbudgets"
PODS = "/api/v1/namespaces/{}/pods"
EVENTS = "/api/v1/namespaces/{}/events"


def eventually(
    probe: Callable[[], Found | None], what: str, seconds: float = WAIT_SECONDS
) -> Found:
    """Wait until ``probe`` gives something true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := probe():
            return found
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


class Admin:
    """Plain JSON requests with all rights, in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str = "default") -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self._api = kubernetes.config.new_client_from_config(str(kubeconfig))

    def close(self) -> None:
        self._api.close()

    def request(self, method: str, path: str, body: Any = None, kind: str = "json") -> Json:
        """Send one request; ``{}`` in ``path`` stands for the namespace."""
        answer = self._api.call_api(
            path.replace("{}", self.namespace),
            method,
            header_params={"Accept": "application/json", "Content-Type": f"application/{kind}"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
        )
        parsed: Json = json.loads(answer.data)
        return parsed

    def list(self, path: str) -> Sequence[Json]:
        found: Sequence[Json] = self.request("GET", path)["items"]
        return found

    def get(self, path: str, name: str) -> Json:
        return self.request("GET", f"{path}/{name}")

    def create(self, path: str, body: Json) -> Json:
        return self.request("POST", path, body)

    def merge(self, path: str, name: str, patch: Json) -> Json:
        return self.request("PATCH", f"{path}/{name}", patch, "merge-patch+json")

    def has_budgets(self) -> bool:
        """Whether the server has ``policy/v1``, which came with Kubernetes 1.21."""
        groups = self.request("GET", "/apis")["groups"]
        (policy,) = (group for group in groups if group["name"] == "policy")
        return "v1" in [each["version"] for each in policy["versions"]]

    def apply_model(self, name: str, **spec: Any) -> Json:
        """Create a model of two ranks, or change the one that is there."""
        wanted = {
            "source": {"uri": "s3://models/minilm"},
            "parallelism": {"tensor": 2},
            "storage": {"uri": "s3://shards"},
            "workers": {"backend": "gloo"},
            **spec,
        }
        body = {
            "apiVersion": "shardedmodel.dev/v1alpha1",
            "kind": "ShardedModel",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": wanted,
        }
        # Applied as a user would, by another field manager than the operator's.
        path = f"{MODELS}/{name}?fieldManager=test&force=true"
        return self.request("PATCH", path, body, "apply-patch+yaml")

    def condition(self, model: str, kind: str) -> Json:
        """One condition of a model; empty when it is not there."""
        status = self.get(MODELS, model).get("status", {})
        found: list[Json] = [c for c in status.get("conditions", []) if c["type"] == kind]
        return found[0] if found else {}

    def wait_for_condition(self, model: str, kind: str, status: str, reason: str = "") -> Json:
        def probe() -> Json | None:
            found = self.condition(model, kind)
            right = found.get("status") == status and reason in ("", found.get("reason"))
            return found if right else None

        return eventually(probe, f"{model}: {kind}={status} {reason}")


class PaperKubelet:
    """Makes pods of Jobs and StatefulSets, and says of them what a kubelet would."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def job(self, model: str) -> Json:
        """The newest Job of a model, once the operator made it."""

        def probe() -> Json | None:
            jobs = [j for j in self._admin.list(JOBS) if _is_of(model, j) and not _has_ended(j)]
            return jobs[0] if jobs else None

        return eventually(probe, f"{model}: a Job")

    def finish_job(self, job: Json, summary: ShardSummary) -> None:
        """Let the Job's pod succeed with ``summary``."""
        self._end_job(job, 0, summary.to_json())

    def fail_job(self, job: Json, failure: Failure) -> None:
        """Let the Job's pod fail with ``failure``."""
        self._end_job(job, 4, failure.to_json())

    def sets(self, model: str, count: int = 1) -> Sequence[Json]:
        """The StatefulSets of a model, once there are ``count``."""

        def probe() -> Sequence[Json] | None:
            sets = [s for s in self._admin.list(SETS) if _is_of(model, s)]
            return sets if len(sets) == count else None

        return eventually(probe, f"{model}: {count} StatefulSets")

    def start_group(self, stateful_set: Json, ready: bool = True) -> None:
        """Let all pods of a group run."""
        name = stateful_set["metadata"]["name"]
        for ordinal in range(stateful_set["spec"]["replicas"]):
            pod = f"{name}-{ordinal}"
            self._make_pod(pod, stateful_set, "StatefulSet")
            self.set_pod(pod, "Running", {"running": {}}, ready)

    def set_pod(self, name: str, phase: str, state: Json, ready: bool = False) -> None:
        """Write the status of a pod with one container."""
        container = {
            "name": self._admin.get(PODS, name)["spec"]["containers"][0]["name"],
            "image": "x",
            "imageID": "",
            "ready": ready,
            "restartCount": 0,
            "state": state,
        }
        status = {
            "phase": phase,
            # Of a range for documentation: nothing answers there.
            "podIP": "192.0.2.1",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [container],
        }
        self._admin.merge(PODS, f"{name}/status", {"status": status})

    def _end_job(self, job: Json, exit_code: int, message: str) -> None:
        name = job["metadata"]["name"]
        pod = f"{name}-pod"
        self._make_pod(pod, job, "Job")
        phase = "Succeeded" if exit_code == 0 else "Failed"
        self.set_pod(pod, phase, {"terminated": {"exitCode": exit_code, "message": message}})
        status = ended_job(succeeded=exit_code == 0)
        self._admin.merge(JOBS, f"{name}/status", {"status": status})

    def _make_pod(self, name: str, owner: Json, kind: str) -> None:
        template = owner["spec"]["template"]
        reference = {
            "apiVersion": owner.get("apiVersion", "v1"),
            "kind": kind,
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
        labels = template["metadata"]["labels"]
        metadata = {"name": name, "labels": labels, "ownerReferences": [reference]}
        self._admin.create(PODS, {"metadata": metadata, "spec": template["spec"]})


def _is_of(model: str, body: Json) -> bool:
    label = body["metadata"].get("labels", {}).get("shardedmodel.dev/model")
    return bool(label == model)


def _has_ended(job: Json) -> bool:
    return bool(job.get("status", {}).get("conditions"))


def ended_job(*, succeeded: bool) -> Json:
    """The status of a Job that has just ended, as servers from 1.31 on want it in every part."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kinds = ("SuccessCriteriaMet", "Complete") if succeeded else ("FailureTarget", "Failed")
    said = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds]
    ended = {"completionTime": now} if succeeded else {}
    return {"startTime": now, "conditions": said, **ended}


def summary(layout_hash: str = "0123456789abcdef0123") -> ShardSummary:
    """What a Job that cut MiniLM for two ranks would say."""
    return ShardSummary(
        layout_hash=layout_hash,
        manifest_uri=f"s3://shards/{layout_hash}/manifest.json",
        objects=3,
        bytes=90_000_000,
        source_bytes=90_000_000,
        source_bytes_read=90_000_000,
        max_rank_bytes=46_000_000,
        seconds=2.5,
        peak_memory_bytes=200_000_000,
    )


class OperatorProcess:
    """``shardedmodel-operator run`` as a process of its own."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *flags: str,
        variables: Mapping[str, str] | None = None,
        ready_within: float = WAIT_SECONDS,
    ) -> None:
        self._log = log
        self._ready_within = ready_within
        self._command = [
            *(sys.executable, "-m", "shardedmodel_operator", "run"),
            *("--port", "0", "--log-format", "text"),
            *flags,
        ]
        self._environment = {
            # Without the tests' own variables, which are no settings.
            **{k: v for k, v in os.environ.items() if not k.startswith("SHARDEDMODEL_")},
            "KUBECONFIG": str(kubeconfig),
            "SHARDEDMODEL_RUNTIME_IMAGE": "runtime:test",
            **(variables or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        """Its process id, for what is measured from outside."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stderr=log)
        try:
            eventually(
                self._is_ready,
                f"the operator is ready; its log: {self._log}",
                self._ready_within,
            )
        except AssertionError:
            self.kill()
            raise AssertionError(self.log) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Ask it to end; gives the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(WAIT_SECONDS)

    def kill(self) -> None:
        """End it as a node that goes down would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(WAIT_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def get(self, path: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def writes(self) -> int:
        """API calls so far that change something."""
        pattern = r'api_calls_total\{verb="(create|patch|delete)"[^}]*\} (\d+)'
        return sum(int(count) for _, count in re.findall(pattern, self.get("/metrics")))

    def reconciles(self) -> int:
        """Reconciliations so far."""
        found = re.findall(r"reconciles_total\{[^}]*\} (\d+)", self.get("/metrics"))
        return sum(map(int, found))

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError("the operator ended")
        port = re.search(r"metrics on port (\d+)", self.log)
        if port is None:
            return False
        self._port = int(port.group(1))
        return "ready:" in self.log
