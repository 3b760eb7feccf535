"""What every benchmark's record shares: the machine, medians with their range, dated files."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

FOLDER = Path(__file__).parent
"""Where the records that are kept lie."""


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Begin a benchmark's arguments: its docstring as it stands, and where the record goes.

    Args:
        module: its name below ``benchmarks``.
        description: its docstring.
    """
    begun = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    begun.add_argument(
        "--output", type=Path, default=FOLDER, metavar="FOLDER", help="of the dated files"
    )
    return begun


def heading(what: str) -> dict[str, Any]:
    """Begin a record: what is measured, today's date in UTC, and on which machine.

    Args:
        what: one line that tells the work and its size.
    """
    return {"what": what, "date": datetime.now(UTC).date().isoformat(), "machine": machine()}


def machine() -> dict[str, Any]:
    """Describe the machine: its cores and its system."""
    return {"cores": os.cpu_count(), "system": platform.platform(terse=True)}


def spread(values: Iterable[float], places: int = 3) -> dict[str, float]:
    """Give the median and the range of at least one value, to ``places``."""
    found = sorted(values)
    return {
        "median": round(median(found), places),
        "least": round(found[0], places),
        "most": round(found[-1], places),
    }


def write(record: Mapping[str, Any], folder: Path, name: str) -> Path:
    """Write ``name-<date>.json`` into ``folder``, which is made; returns the file's path.

    The date is the record's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{record['date']}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
