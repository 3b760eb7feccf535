"""After a failure: the object, pod and log line that failed, so nobody has to dig."""

from __future__ import annotations

from typing import Any

from demo.console import DemoError
from demo.kubectl import Kubectl

LOG_LINES = 15
"""Enough for a traceback's end, short enough to read in a terminal."""


def diagnose(kubectl: Kubectl, namespaces: list[str]) -> list[str]:
    """Describe what is not well in ``namespaces``, most telling first."""
    lines: list[str] = []
    for namespace in namespaces:
        try:
            lines += _models(kubectl, namespace)
            lines += _pods(kubectl, namespace)
        except DemoError as e:
            lines.append(f"{namespace}: {e}")
    return lines or ["nothing in the cluster looks wrong"]


def _models(kubectl: Kubectl, namespace: str) -> list[str]:
    lines = []
    if "shardedmodels" not in kubectl.run("api-resources", "-o", "name"):
        return []
    for model in kubectl.get("shardedmodels", "-n", namespace)["items"]:
        name = f"ShardedModel {namespace}/{model['metadata']['name']}"
        for condition in model.get("status", {}).get("conditions", []):
            wrong = condition["type"] == "Stalled" or (
                condition["type"] == "Ready" and condition["status"] != "True"
            )
            if wrong:
                lines.append(
                    f"{name}: {condition['type']}={condition['status']} "
                    f"{condition['reason']}: {condition['message']}"
                )
    return lines


def _pods(kubectl: Kubectl, namespace: str) -> list[str]:
    lines = []
    for pod in kubectl.get("pods", "-n", namespace)["items"]:
        status = pod.get("status", {})
        if status.get("phase") == "Succeeded" or _is_ready(status):
            continue
        name = pod["metadata"]["name"]
        lines.append(f"pod {namespace}/{name}: {status.get('phase')} {_waiting(status)}".rstrip())
        log = kubectl.run(
            "logs", "-n", namespace, name, "--all-containers", f"--tail={LOG_LINES}", check=False
        )
        lines += [f"    {line}" for line in log.splitlines()]
    return lines


def _is_ready(status: dict[str, Any]) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions", [])
    )


def _waiting(status: dict[str, Any]) -> str:
    for container in status.get("containerStatuses", []):
        for state in (container.get("state", {}), container.get("lastState", {})):
            detail = state.get("waiting") or state.get("terminated")
            if detail:
                return f"{detail.get('reason', '')}: {detail.get('message', '')}"
    for condition in status.get("conditions", []):
        if condition["status"] != "True" and condition.get("message"):
            return f"{condition.get('reason', '')}: {condition['message']}"
    return ""
