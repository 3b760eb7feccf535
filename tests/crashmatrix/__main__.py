"""Go through the matrix on a cluster of its own, and write what came of it.

The operator's deaths, the others', or both::

    python -m tests.crashmatrix --sample 60 --seed 7 --only deaths
    python -m tests.crashmatrix --only faults
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import records
from tests import ending, slots
from tests.crashmatrix import campaign, tables
from tests.crashmatrix.campaign import say
from tests.crashmatrix.deaths import deaths_of, lives_of, sample
from tests.crashmatrix.faults import FAULTS
from tests.crashmatrix.lanes import Lanes, lanes
from tests.crashmatrix.lives import Endings
from tests.crashmatrix.world import World, world

RESULTS = Path(__file__).parents[2] / "benchmarks"
MINUTES = 24 * 60.0
"""No bound: all of it takes an hour or two."""
LANES = 3
"""Lives at a time: more would only wait for each other on two cores."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; fails when a cell did."""
    options = _parser().parse_args(arguments)
    ending.unwind_on_sigterm()
    logs = Path(tempfile.mkdtemp(prefix="crashmatrix-"))
    say(f"logs of the operators: {logs}")
    failed = False
    with (
        world(slots.END_TO_END, logs) as shared,
        lanes(shared, options.lanes, options.minutes, say) as several,
    ):
        endings = campaign.baseline(several)
        if options.only != "faults":
            failed |= _deaths(several, endings, options)
        if options.only != "deaths":
            failed |= _faults(shared, several, endings, options)
    return int(failed)


def _deaths(several: Lanes, endings: Endings, options: argparse.Namespace) -> bool:
    began = time.monotonic()
    there_are = deaths_of({step: ending.trace for step, ending in endings.items()})
    tried = sample(there_are, options.sample or len(there_are), options.seed)
    lives = lives_of(tried)
    # What does not fit into the time is left to chance as well, but for lives of many deaths.
    random.Random(options.seed).shuffle(lives)
    lives.sort(key=lambda life: -len(life.deaths))
    cells, broken = campaign.deaths(several, endings, lives)
    print(f"\n{tables.deaths_table(endings, len(there_are), cells)}\n", flush=True)
    record = {**_run(options, began, broken), "deaths": len(there_are)}
    _write("deaths", {**record, **tables.deaths_json(endings, cells)})
    return bool(broken) or any(cell.failed for cell in cells)


def _faults(shared: World, several: Lanes, endings: Endings, options: argparse.Namespace) -> bool:
    began = time.monotonic()
    there_are = [fault for fault in FAULTS if options.match in str(fault)]
    count = min(options.sample or len(there_are), len(there_are))
    chosen = random.Random(options.seed).sample(there_are, count)
    cells, broken = campaign.faults(shared, several, endings, chosen)
    print(f"\n{tables.faults_table(cells)}\n", flush=True)
    record = {**_run(options, began, broken), "faults": len(FAULTS)}
    _write("faults", {**record, "cells": tables.faults_json(cells)})
    return bool(broken) or any(cell.failed for cell in cells)


def _run(options: argparse.Namespace, began: float, broken: Sequence[Exception]) -> dict[str, Any]:
    return records.heading("deaths in the lives of models, on a real cluster") | {
        "seed": options.seed,
        "lanes": options.lanes,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "brokenOff": [str(error) for error in broken],
    }


def _write(part: str, record: dict[str, Any]) -> None:
    say(f"wrote {records.write(record, RESULTS, f'crash-matrix-{part}')}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crashmatrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=("deaths", "faults"), help="one part; default: both")
    parser.add_argument("--sample", type=int, default=0, help="cells of each part; default: all")
    parser.add_argument(
        "--match", default="", help="only faults whose phase and victim have this in their name"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="begin no life after so many"
    )
    parser.add_argument("--lanes", type=int, default=LANES, help="lives that go on at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
