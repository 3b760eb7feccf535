"""How long a group takes to form, beside its load: the manifest, the store, the barrier.

Rank 0 is started first and reads the manifest; when it has its weights, all others but one are
started, and then the last one. What that spends in each phase is what the group waits for it.
(Ranks that import torch beside rank 0 would leave it little of two cores.) Run with ``make
bench-loader``; writes ``forming-<date>.json`` beside this file.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.presharder import big_llama
from tests.builders.checkpoint import llama_shapes, write_checkpoint
from tests.builders.layout import shard
from tests.builders.pods import Pod, PodGroup, eventually
from tests.s3server import S3Server

RANKS = (2, 4, 8)
"""Twice as many each time shows what grows; each rank is a process that imports torch."""
MEGABYTES = 100
"""Of the model: what is measured does not depend on it, and memory for eight ranks is scarce."""
ROUNDS = 5
"""Groups of each size: two that are disturbed leave the median where it is."""
PHASES = ("join", "metadata", "barrier")
"""All that a rank spends, from its first connection on, beside its load."""
BUCKET = "forming"


def measure(ranks: int, layout: str, rounds: int) -> dict[str, Any]:
    """Form groups of ``ranks`` one after another; gives each phase's seconds, of two ranks.

    Of the first rank the manifest's seconds: it reads it for all. Of the last one all phases.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="forming-") as name:
            arguments = ("--backend", "gloo")
            group = PodGroup(layout, Path(name), ranks, arguments=arguments)
            try:
                _form(group)
                reports = {rank.rank: rank.phase_seconds for rank in group.ranks()}
            finally:
                group.stop()
        found["manifest"].append(reports[0]["metadata"])
        for phase in PHASES:
            found[phase].append(reports[ranks - 1][phase])
        found["together"].append(sum(reports[ranks - 1][phase] for phase in PHASES))
    return {"ranks": ranks} | {name: records.spread(seconds, 4) for name, seconds in found.items()}


def _form(group: PodGroup) -> None:
    first, *others, last = range(group.world_size)
    for ordinals in ([first], others):
        for ordinal in ordinals:
            group.start(ordinal)
        eventually(lambda: all(map(_has_weights, group.pods.values())), "loaded")
    group.start(last)
    group.wait_ready()


def _has_weights(pod: Pod) -> bool:
    return pod.is_served and pod.own_rank(pod.ordinal).state == "loaded"


def main() -> None:
    """Measure, and write the dated file."""
    parser = records.parser("forming", __doc__)
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=RANKS, metavar="N", help="of each group"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="of each group")
    options = parser.parse_args()
    config = big_llama(MEGABYTES)
    with tempfile.TemporaryDirectory(prefix="forming-") as name, S3Server() as server:
        os.environ |= server.environment | {"AWS_ENDPOINT_URL_S3": server.endpoint_url}
        with closing(server.client()) as client:
            client.create_bucket(Bucket=BUCKET)
        model = Path(name) / "model"
        write_checkpoint(model, config, llama_shapes(config), dtype="BF16")
        groups = [
            measure(ranks, shard(model.as_uri(), f"s3://{BUCKET}", ranks)[2], options.rounds)
            for ranks in options.ranks
        ]
    record = records.heading("a group that waits for its last rank, on loopback, over gloo")
    record |= {"rounds": options.rounds, "loadAverage": round(os.getloadavg()[0], 1)}
    print(records.write(record | {"seconds": groups}, options.output, "forming"))


if __name__ == "__main__":
    main()
