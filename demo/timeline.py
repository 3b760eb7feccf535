"""Where the time of one model went, read from the objects that the cluster keeps.

Pure: takes the objects as ``kubectl get -o json`` gives them, returns named spans. Kubernetes
rounds its timestamps to whole seconds, so a span is exact to one second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Span:
    """One phase of the way to Ready: seconds since the apply, and its own."""

    name: str
    start: float
    seconds: float


def timeline(
    model: Mapping[str, Any],
    job: Mapping[str, Any] | None,
    job_pods: Iterable[Mapping[str, Any]],
    stateful_sets: Iterable[Mapping[str, Any]],
    rank_pods: Iterable[Mapping[str, Any]],
) -> list[Span]:
    """Cut apply → Ready into its phases; a phase whose ends are not known is left out."""
    ranks = list(rank_pods)
    marks: list[tuple[str, datetime | None]] = [
        ("operator sees it, creates the Job", _created(job)),
        ("Job pod scheduled and started", _latest(_started(pod) for pod in job_pods)),
        ("checkpoint cut and uploaded", _time((job or {}).get("status", {}).get("completionTime"))),
        ("operator creates the ranks", _latest(_created(each) for each in stateful_sets)),
        ("rank pods scheduled and started", _latest(_started(pod) for pod in ranks)),
        ("load, verify, form the group", _latest(_condition(pod, "Ready") for pod in ranks)),
        ("operator reports Ready", _condition(model, "Ready")),
    ]
    applied = _created(model)
    spans: list[Span] = []
    if applied is None:
        return spans
    before = applied
    for name, moment in marks:
        if moment is None:
            continue
        spans.append(Span(name, _seconds(applied, before), max(0.0, _seconds(before, moment))))
        before = max(before, moment)
    return spans


def seconds_to_ready(model: Mapping[str, Any]) -> float | None:
    """Seconds from creation to the Ready condition; None while it is not Ready."""
    applied, ready = _created(model), _condition(model, "Ready")
    return None if applied is None or ready is None else _seconds(applied, ready)


def as_table(spans: Iterable[Span], width: int = 40) -> list[str]:
    """Draw the spans as lines of text: name, seconds and a bar on a common scale."""
    rows = list(spans)
    end = max((span.start + span.seconds for span in rows), default=0.0) or 1.0
    lines = []
    for span in rows:
        offset = round(span.start / end * width)
        bar = "█" * max(1, round(span.seconds / end * width))
        lines.append(f"{span.name:<36}{span.seconds:>5.0f} s  {' ' * offset}{bar}")
    return lines


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None


def _created(item: Mapping[str, Any] | None) -> datetime | None:
    return _time(item["metadata"].get("creationTimestamp")) if item else None


def _started(pod: Mapping[str, Any]) -> datetime | None:
    for container in pod.get("status", {}).get("containerStatuses", []):
        state = container.get("state", {})
        running = state.get("running") or state.get("terminated") or {}
        if running.get("startedAt"):
            return _time(running["startedAt"])
    return None


def _condition(item: Mapping[str, Any], name: str) -> datetime | None:
    for condition in item.get("status", {}).get("conditions", []):
        if condition["type"] == name and condition["status"] == "True":
            return _time(condition.get("lastTransitionTime"))
    return None


def _latest(moments: Iterable[datetime | None]) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()
