"""Go through the whole matrix, and print its tables."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faultproxy import campaign
from tests.faultproxy.campaign import Bench
from tests.killmatrix import cells
from tests.killmatrix.phases import Phase
from tests.s3server import S3Server

Cell = Callable[[Bench, Path, Phase, int], str]


def killed(bench: Bench, folder: Path, phase: Phase, rank: int) -> str:
    """Kill, and say how the group came back."""
    recovery = cells.kill(bench, folder, phase, rank)
    return f"incarnation {recovery.incarnation}, {recovery.seconds:.0f} s"


def terminated(bench: Bench, folder: Path, phase: Phase, rank: int) -> str:
    """Terminate, and say how long it took."""
    return f"{cells.terminate(bench, folder, phase, rank):.1f} s"


def table(bench: Bench, folder: Path, cell: Cell) -> tuple[str, int]:
    """Fill a table; gives it, and the number of cells that failed."""
    ranks = range(cells.WORLD_SIZE)
    rows = [
        "| phase | " + " | ".join(f"rank {rank}" for rank in ranks) + " |",
        "|---|" + "---|" * len(ranks),
    ]
    failed = 0
    for phase in Phase:
        row = []
        for rank in ranks:
            try:
                row.append(cell(bench, folder, phase, rank))
            except AssertionError as error:
                failed += 1
                row.append(f"FAILED: {' '.join(str(error).split())}")
            print(f"{cell.__name__} {phase} {rank}: {row[-1]}", file=sys.stderr, flush=True)
        rows.append(f"| {phase} | {' | '.join(row)} |")
    return "\n".join(rows), failed


def main() -> int:
    """Print both tables; fail when a cell did."""
    failures = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        S3Server() as server,
        campaign.bench(server, Path(folder), "killmatrix", cells.WORLD_SIZE) as bench,
    ):
        for cell in (killed, terminated):
            text, failed = table(bench, Path(folder), cell)
            print(f"{cell.__name__}\n\n{text}\n", flush=True)
            failures += failed
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
