"""The demo's figures as a dated file: what was run, on what, and what each phase took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import records
from demo.scenario import Outcome
from demo.timeline import seconds_to_ready


def write_record(folder: Path, outcomes: Iterable[Outcome], steps: Mapping[str, float]) -> Path:
    """Write ``main-job-<date>.json`` into ``folder``; returns its path."""
    what = "make demo: apply to Ready on a single-node cluster, gloo, no GPU"
    record = records.heading(what) | {
        "stepSeconds": {name: round(seconds, 1) for name, seconds in steps.items()},
        "models": [_figures(outcome) for outcome in outcomes],
    }
    return records.write(record, folder, "main-job")


def _figures(outcome: Outcome) -> dict[str, Any]:
    status = outcome.model["status"]
    sharding = status["sharding"]
    ranks = status["ranks"]
    return {
        "name": outcome.model["metadata"]["name"],
        "tensor": outcome.model["spec"]["parallelism"]["tensor"],
        "applyToReadySeconds": seconds_to_ready(outcome.model),
        "phaseSeconds": {span.name: span.seconds for span in outcome.spans},
        "layoutBytes": sharding["bytes"],
        "sourceBytes": sharding["sourceBytes"],
        "sourceBytesRead": sharding["sourceBytesRead"],
        "presharderPeakMemoryBytes": sharding["peakMemoryBytes"],
        "rankBytes": [rank["bytes"] for rank in ranks],
        "rankBytesRead": [rank["bytesRead"] for rank in ranks],
        "load": status["load"],
    }
