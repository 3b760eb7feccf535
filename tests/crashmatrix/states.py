"""What the cluster holds for one model, without what differs from life to life."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Body = Mapping[str, Any]
State = dict[str, Any]
"""By ``Kind name``, by ``store`` for the objects of the layouts, and by ``status``."""

TIMES = ("Time", "At", "Since")
"""How fields end that tell a time."""
FIGURES = frozenset(
    {
        "aggregateBytesPerSecond",
        "bytesPerSecond",
        "duration",
        "joinSeconds",
        "maxSeconds",
        "memoryEfficiency",
        "p50Seconds",
        "peakMemoryBytes",
        "remainingSeconds",
        "seconds",
        "skewSeconds",
        "slowestRank",
        "throughput",
    }
)
"""Fields of the status that are measured."""
TRACES = frozenset(
    {
        "attempt",
        "bytesRead",
        "containerRestarts",
        "incarnation",
        "restartCount",
        "restarts",
        "reused",
        "shardedmodel.dev/attempt",
        "sourceBytesRead",
    }
)
"""Fields that tell of what broke and was done again: where ranks and Jobs die, they should."""
IDENTITY = frozenset(
    {
        "clusterIP",
        "clusterIPs",
        "controller-uid",
        "generation",
        "managedFields",
        "namespace",
        "nodePort",
        "observedGeneration",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
"""What the server gives out anew each time, and the namespace, of which each life has its own."""
MEASURED = re.compile(r"\d+(\.\d+)?( ?(s|ms|[kMG]?B/s|[kMG]B))\b")
"""Times and rates in a message."""


def state_of(bodies: Sequence[Body], content: Mapping[str, int], *, traces: bool = True) -> State:
    """Say what there is, for comparison.

    Args:
        bodies: all objects of the life's namespace that belong to the model, and the model.
        content: bytes of each object in the bucket of layouts.
        traces: whether restarts and attempts are part of it; without them a Job of the second
            attempt is the same as one of the first.
    """
    found: State = {f"store {key}": size for key, size in content.items()}
    for body in bodies:
        if body["kind"] == "Pod" and is_going(body):
            # The kubelet's work: one of 1.20 may take a minute where its container has ended.
            continue
        reduced = _reduced(body, traces)
        metadata = body["metadata"]
        name = str(_owner_named(body) or metadata["name"])
        kept = {"spec": reduced.get("spec"), "labels": reduced["metadata"].get("labels", {})}
        kept["owners"] = reduced["metadata"].get("ownerReferences", [])
        kept["finalizers"] = metadata.get("finalizers", [])
        kept["going"] = is_going(body)
        kept |= _told(reduced)
        if body["kind"] == "ShardedModel":
            kept["current"] = _is_current(body)
        found[f"{body['kind']} {name if traces else _first_attempt(name)}"] = kept
    return found


def is_going(body: Body) -> bool:
    """Whether an object is on its way out."""
    return "deletionTimestamp" in body["metadata"]


def differences(wanted: Any, got: Any, where: str = "") -> Iterator[str]:
    """Name each place in which two states differ."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in sorted({*wanted, *got}):
            place = f"{where}.{key}" if where else key
            if key not in got:
                yield f"{place} is missing"
            elif key not in wanted:
                yield f"{place} is surplus"
            else:
                yield from differences(wanted[key], got[key], place)
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for number, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from differences(one, other, f"{where}[{number}]")
    elif wanted != got:
        yield f"{where}: {_short(got)} instead of {_short(wanted)}"


def _told(body: Body) -> dict[str, Any]:
    """What of the status is compared: all of a model's, the outcome of the others'."""
    status = body.get("status") or {}
    if body["kind"] == "ShardedModel":
        return {"status": status}
    if body["kind"] == "Job":
        conditions = status.get("conditions") or []
        return {"status": sorted(c["type"] for c in conditions if c["status"] == "True")}
    if body["kind"] == "Pod":
        containers = status.get("containerStatuses") or []
        told = [{k: v for k, v in c.items() if k in ("ready", *TRACES)} for c in containers]
        # The kubelet fills in the spec; what it was made from is its owner's template.
        return {"spec": None, "status": {"phase": status.get("phase"), "containers": told}}
    return {}


def _is_current(model: Body) -> bool:
    """Whether status and conditions speak of the spec as it is now."""
    status = model.get("status") or {}
    spoken_of = [status, *status.get("conditions", [])]
    generation = model["metadata"]["generation"]
    return all(each.get("observedGeneration") == generation for each in spoken_of)


def _reduced(value: Any, traces: bool) -> Any:
    if isinstance(value, list):
        return [_reduced(item, traces) for item in value]
    if isinstance(value, Mapping):
        return {
            key: _reduced(item, traces) for key, item in value.items() if _is_compared(key, traces)
        }
    if isinstance(value, str):
        told = MEASURED.sub("#", value)
        return told if traces else _first_attempt(told)
    return value


def _is_compared(key: str, traces: bool) -> bool:
    dropped = IDENTITY | FIGURES if traces else IDENTITY | FIGURES | TRACES
    return key not in dropped and not key.endswith(TIMES)


def _owner_named(body: Body) -> str:
    """A Job's pod by its Job's name: its own ends in chance."""
    owners = body["metadata"].get("ownerReferences") or []
    if body["kind"] == "Pod" and owners and owners[0]["kind"] == "Job":
        return f"of {owners[0]['name']}"
    return ""


def _first_attempt(name: str) -> str:
    return re.sub(r"(-shard-[0-9a-f]{8})-\d+", r"\1-*", name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
