"""``shardedmodel plan``: show how a checkpoint would be cut, from its headers alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.cli import arguments as common
from shardedmodel_runtime.cli.output import counted, show
from shardedmodel_runtime.cli.progress import binary_size, decimal_size, waiting_line
from shardedmodel_runtime.cli.rules import parse_rules
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.overview import PlanOverview, TensorGroup

GROUPS_SHOWN = 100
"""Lines of the table; the largest model families have some forty kinds of tensors."""
RANK_LINES_SHOWN = 64
"""Lines for ranks, neighbours of equal bytes in one; of more, the least and the most are told."""
UNMATCHED_SHOWN = 10
"""Names of tensors that no rule matched; ``--json`` has all of them."""


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
    distributor = WeightDistributor(
        common.parallelism_of(arguments),
        parse_rules(arguments.rules),
        dtype=arguments.dtype,
        allow_unmatched=True,  # nothing is made yet: it is shown, with a warning
    )
    with (
        common.opener(arguments, "source")(arguments.source) as store,
        waiting_line(store, "the checkpoint's headers"),
    ):
        metadata = CheckpointMetadata.read(store)
    overview = PlanOverview(distributor.plan(metadata), metadata.config)
    show(_to_json(overview, metadata) if arguments.json else _to_text(overview, metadata))
    return 0


def _to_text(overview: PlanOverview, metadata: CheckpointMetadata) -> str:
    plan = overview.plan
    degrees = " x ".join(f"{kind} {degree}" for kind, degree in plan.parallelism.as_dict().items())
    lines = [
        f"{plan.model_type}: {counted(len(plan.cuts), 'tensor')}, "
        f"{decimal_size(metadata.total_bytes)} in {counted(len(metadata.objects), 'file')}; "
        f"{degrees}, dtype {plan.dtype}",
        "",
        *_group_lines(overview.groups),
        "",
        *_rank_lines(overview, metadata),
        "",
        "held whole by several ranks: "
        f"{counted(sum(group.count for group in overview.replicated), 'tensor')}, "
        f"{decimal_size(overview.replicated_bytes)}",
        f"memory for each GPU: {binary_size(max(overview.rank_bytes))} of weights "
        f"(rank {overview.largest_rank}); caches and activations come on top",
        *(f"warning: {text}" for text in overview.warnings()),
        *_unmatched_lines(plan.unmatched),
    ]
    return "\n".join(lines)


def _group_lines(groups: Sequence[TensorGroup]) -> list[str]:
    """One line for all tensors that differ in layer and expert alone."""
    headings = ("name", "tensors", "dtype", "whole", "strategy", "cut", "bytes", "bytes per rank")
    rows = [headings, *(_group_row(group) for group in groups[:GROUPS_SHOWN])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    more = len(groups) - GROUPS_SHOWN
    return [*lines, f"and {more} more kinds; --json has all"] if more > 0 else lines


def _group_row(group: TensorGroup) -> tuple[str, ...]:
    cut = group.cut
    return (
        group.pattern,
        f"{group.count:,}",
        cut.dtype if cut.cast_from is None else f"{cut.cast_from} to {cut.dtype}",
        str(list(cut.shape)),
        cut.strategy if group.matched else f"{cut.strategy} (no rule)",
        _where(cut),
        f"{group.nbytes:,}",
        f"{group.rank_bytes:,}",
    )


def _where(cut: TensorCut) -> str:
    parts = [
        f"dim {axis.dim} over {counted(len(axis.ranges), f'{axis.over} rank')}" for axis in cut.axes
    ]
    if cut.expert is not None:
        parts.append("each on one expert rank")
    return ", ".join(parts) or "whole"


def _rank_lines(overview: PlanOverview, metadata: CheckpointMetadata) -> list[str]:
    sizes, whole = overview.rank_bytes, max(metadata.total_bytes, 1)
    least, most = min(sizes), max(sizes)
    spread = (
        f"{counted(len(sizes), 'rank')}: {least:,}{f' to {most:,}' if most > least else ''} bytes "
        "each, "
        f"{most / whole:.1%} of the checkpoint at most"
    )
    lines = []
    for size, numbers in groupby(range(len(sizes)), key=lambda rank: sizes[rank]):
        first, *others = numbers
        ranks = f"ranks {first} to {others[-1]}" if others else f"rank {first}"
        lines.append(f"  {ranks:<18}{size:>18,}")
    return [spread, *(lines if len(lines) <= RANK_LINES_SHOWN else [])]


def _unmatched_lines(names: Sequence[str]) -> list[str]:
    more = len(names) - UNMATCHED_SHOWN
    lines = [f"  {name}" for name in names[:UNMATCHED_SHOWN]]
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _to_json(overview: PlanOverview, metadata: CheckpointMetadata) -> str:
    plan = overview.plan
    return json.dumps(
        {
            "modelType": plan.model_type,
            "parallelism": plan.parallelism.as_dict(),
            "dtype": plan.dtype,
            "planDigest": plan.digest(),
            "bytes": metadata.total_bytes,
            "rankBytes": overview.rank_bytes,
            "replicatedBytes": overview.replicated_bytes,
            "unmatched": plan.unmatched,
            "unmatchedBytes": plan.unmatched_bytes,
            "warnings": overview.warnings(),
            "groups": [
                {
                    "pattern": group.pattern,
                    "tensors": group.count,
                    "strategy": group.cut.strategy,
                    "matched": group.matched,
                    "bytes": group.nbytes,
                    "rankBytes": group.rank_bytes,
                }
                for group in overview.groups
            ],
            "cuts": [asdict(cut) for cut in plan.kinds],
            "tensors": dict(zip(plan.cuts, plan.kind_of, strict=True)),
        },
        separators=(",", ":"),
    )
