"""``shardedmodel plan``: show how a checkpoint would be cut, from its headers alone."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from dataclasses import asdict

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.progress import megabytes
from shardedmodel_runtime.cli.rules import parse_rules
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.plan import ShardingPlan

UNMATCHED_SHOWN = 10
"""Names of tensors that no rule matched, in the table; ``--json`` has all of them."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common.add_source(parser)
    common.add_sharding(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read the headers, plan, and print the plan.

    Raises:
        ConfigurationError: the parallelism or a rule does not fit the model.
        CheckpointError: the source is no usable checkpoint.
        StorageError: the source cannot be read.
    """
    parallelism = common.parallelism_of(arguments)
    distributor = WeightDistributor(parallelism, parse_rules(arguments.rules))
    with common.opener(arguments, "source")(arguments.source) as store:
        metadata = CheckpointMetadata.read(store)
    plan = distributor.plan(metadata)
    print(_to_json(plan, metadata) if arguments.json else "\n".join(_table(plan, metadata)))
    return 0


def _table(plan: ShardingPlan, metadata: CheckpointMetadata) -> list[str]:
    lines = [
        f"{plan.model_type}: {len(plan.cuts)} tensors, {megabytes(metadata.total_bytes)} in "
        f"{len(metadata.objects)} files; tensor parallelism {plan.parallelism.tensor}",
        "",
        f"{'rank':>4}  {'bytes':>16}  {'share':>6}",
    ]
    whole = max(metadata.total_bytes, 1)
    for rank in range(plan.parallelism.world_size):
        size = plan.rank_bytes(rank)
        lines.append(f"{rank:>4}  {size:>16,}  {size / whole:>6.1%}")
    lines += ["", *_cut_lines(plan)]
    return [*lines, *_warnings(plan)]


def _cut_lines(plan: ShardingPlan) -> list[str]:
    """One line for all tensors that differ in their layer's number alone."""
    unmatched = set(plan.unmatched)
    alike = Counter(_describe(name, cut, name not in unmatched) for name, cut in plan.cuts.items())
    headings = ("name", "dtype", "whole", "strategy", "rank 0 holds", "tensors")
    rows = [headings, *((*row, str(count)) for row, count in alike.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _describe(name: str, cut: TensorCut, matched: bool) -> tuple[str, str, str, str, str]:
    strategy = cut.strategy if matched else f"{cut.strategy} (no rule)"
    return (
        _NUMBER.sub("*", name),
        cut.dtype,
        str(list(cut.shape)),
        strategy,
        str(list(cut.local_shape(0))),
    )


def _warnings(plan: ShardingPlan) -> list[str]:
    if not plan.unmatched:
        return []
    names = ", ".join(plan.unmatched[:UNMATCHED_SHOWN])
    more = len(plan.unmatched) - UNMATCHED_SHOWN
    return [
        "",
        f"warning: no rule matched {len(plan.unmatched)} tensors of "
        f"{megabytes(plan.unmatched_bytes)}; every rank would hold them whole: {names}"
        + (f" and {more} more" if more > 0 else ""),
    ]


def _to_json(plan: ShardingPlan, metadata: CheckpointMetadata) -> str:
    return json.dumps(
        {
            "modelType": plan.model_type,
            "parallelism": plan.parallelism.as_dict(),
            "planDigest": plan.digest(),
            "bytes": metadata.total_bytes,
            "rankBytes": [plan.rank_bytes(r) for r in range(plan.parallelism.world_size)],
            "unmatched": list(plan.unmatched),
            "unmatchedBytes": plan.unmatched_bytes,
            "cuts": [asdict(cut) for cut in plan.kinds],
            "tensors": dict(zip(plan.cuts, plan.kind_of, strict=True)),
        }
    )
