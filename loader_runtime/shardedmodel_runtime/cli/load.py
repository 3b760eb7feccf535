"""``shardedmodel load``: load a layout on this machine, and show what each rank did.

Under torchrun it loads as many ranks as the layout was cut for:

    torchrun --nproc-per-node 4 -m shardedmodel_runtime load s3://shards/HASH
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import TYPE_CHECKING

from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.output import counted, show
from shardedmodel_runtime.cli.progress import ProgressLine, decimal_size, waiting_text
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.logs import quieten_torch
from shardedmodel_runtime.rank.options import LAUNCH_TIMEOUT_SECONDS
from shardedmodel_runtime.report import GroupReport, RankReport

if TYPE_CHECKING:
    from shardedmodel_runtime.rank.launch import UnderWay

COLUMNS = (
    *("RANK", "DEVICE", "BYTES", "SECONDS", "GB/S", "READ S", "VERIFY S", "AMPLIFICATION"),
    *("RETRIES", "503S", "HEDGES", "IN FLIGHT", "CACHED", "PEAK/SHARD"),
)
"""Of the table; ``docs/runtime.md`` says what they mean."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; their names are those of ``ModelLoadConfig``."""
    common.add_loading(parser)
    parser.add_argument("--device", metavar="D", help="auto, cpu or cuda; default auto")
    parser.add_argument(
        "--join-timeout-seconds",
        type=common.seconds,
        default=LAUNCH_TIMEOUT_SECONDS,
        metavar="S",
        help="how long to wait for the other ranks; default %(default).0f",
    )
    parser.add_argument(
        "--share-common",
        action="store_true",
        help="read what several ranks hold once together, and exchange it over the group",
    )
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Load this process's rank; rank 0 shows what all did.

    Raises:
        ShardedModelError: the load failed.
    """
    quieten_torch()
    from shardedmodel_runtime.rank.group import leave
    from shardedmodel_runtime.rank.launch import Launch, load_group

    config = ModelLoadConfig.parse(
        common.given(arguments, ModelLoadConfig) | Launch.from_environment().model_dump()
    )
    try:
        _, group = load_group(
            config,
            join_timeout_seconds=arguments.join_timeout_seconds,
            watching=_watching if config.rank == 0 else nullcontext,
        )
        if config.rank == 0:
            show(group.to_json() if arguments.json else table(group))
    finally:
        leave()  # threads of a group that is left to the interpreter's end may abort the process
    return 0


def _watching(load: UnderWay) -> ProgressLine:
    """Show what rank 0 waits for, and how far it is."""
    return ProgressLine(lambda: progress_text(load), stays=False)


def progress_text(load: UnderWay) -> str:
    """Say in one line what a load waits for, or how far it is."""
    progress, failure = load.loader.progress, load.layout.last_failure
    if load.waits_for_ranks:
        return "waiting for the other ranks"
    if not progress.bytes:
        return waiting_text(load.layout, "the manifest")
    done, size = decimal_size(progress.bytes_done), decimal_size(progress.bytes)
    return f"rank 0: {done} of {size} loaded{f'; last failure: {failure}' if failure else ''}"


def table(group: GroupReport) -> str:
    """One line for each rank, and one for all of them."""
    rows = [COLUMNS, *(_row(rank) for rank in group.ranks)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, _summary(group)])


def _row(rank: RankReport) -> tuple[str, ...]:
    return (
        str(rank.rank),
        rank.device,
        decimal_size(rank.bytes),
        f"{rank.seconds:.3f}",
        f"{rank.bytes_per_second / 1e9:.2f}",
        f"{rank.phase_seconds.get('read', 0.0):.3f}",
        f"{rank.phase_seconds.get('verify', 0.0):.3f}",
        f"{rank.read_amplification:.2f}",
        str(rank.retries),
        str(rank.throttled),
        str(rank.hedges),
        str(rank.concurrency),
        decimal_size(rank.cache_bytes),
        f"{rank.memory_ratio:.2f}",
    )


def _summary(group: GroupReport) -> str:
    ranks = group.ranks
    slowest = max(ranks, key=lambda rank: rank.seconds)
    total = sum(rank.bytes for rank in ranks)
    skew = "" if group.load_skew is None else f", {group.load_skew:.2f} of the median"
    rate = total / slowest.seconds / 1e9 if slowest.seconds > 0 else 0.0
    return (
        f"{counted(len(ranks), 'rank')}, {decimal_size(total)} verified in {slowest.seconds:.3f} s "
        f"({rate:.2f} GB/s together); slowest: rank {slowest.rank}{skew}"
    )
