"""The demo's figures as a dated file: what was run, on what, and what each phase took."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from demo.scenario import Outcome
from demo.timeline import seconds_to_ready


def write_record(folder: Path, outcomes: Iterable[Outcome], steps: Mapping[str, float]) -> Path:
    """Write ``main-job-<date>.json`` into ``folder``; returns its path."""
    now = datetime.now(UTC)
    record = {
        "what": "make demo: apply to Ready on a single-node cluster, gloo, no GPU",
        "date": now.date().isoformat(),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "stepSeconds": {name: round(seconds, 1) for name, seconds in steps.items()},
        "models": [_figures(outcome) for outcome in outcomes],
    }
    path = folder / f"main-job-{now.date().isoformat()}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


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
