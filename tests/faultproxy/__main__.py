"""Run the campaign by hand, and print what became of the faults."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.faultproxy import campaign
from tests.s3server import S3Server


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=100, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of which request meets which fault")
    options = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        S3Server() as server,
        campaign.bench(server, Path(folder)) as bench,
    ):
        tallies = campaign.run(bench, options.faults, options.seed)
    print(campaign.table(tallies))
    print(f"\n{time.monotonic() - began:.0f} s, seed {options.seed}")


if __name__ == "__main__":
    main()
