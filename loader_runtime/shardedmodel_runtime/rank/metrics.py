"""Prometheus text of a rank pod; ``docs/runtime.md`` lists the names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from shardedmodel_runtime.report import GroupReport, RankReport, RankState

Labels = dict[str, str]
Sample = tuple[Labels, float]
Family = tuple[str, str, str, list[Sample]]
"""Name without its prefix, type, what it is, and its samples."""

RANK_FIGURES = (
    ("rank_bytes", "gauge", "Bytes of the rank's objects.", "bytes"),
    ("rank_bytes_done", "gauge", "Bytes read and verified.", "bytes_done"),
    ("rank_bytes_read_total", "counter", "Bytes fetched, with repeats.", "bytes_read"),
    ("rank_load_seconds", "gauge", "Wall time of the load.", "seconds"),
    ("rank_retries_total", "counter", "Requests and blocks repeated.", "retries"),
    ("rank_throttled_total", "counter", "503 SlowDown and its like.", "throttled"),
    ("rank_hedges_total", "counter", "Second requests for slow ranges.", "hedges"),
    ("rank_cache_hits", "gauge", "Objects from the node's cache.", "cache_hits"),
    ("rank_cache_bytes", "gauge", "Bytes from the node's cache.", "cache_bytes"),
    ("rank_concurrency", "gauge", "Most reads in flight at once.", "concurrency"),
    ("rank_bytes_per_second", "gauge", "Mean rate of the load.", "bytes_per_second"),
    (
        "rank_read_amplification",
        "gauge",
        "Bytes fetched for each byte of the rank's objects.",
        "read_amplification",
    ),
    (
        "rank_memory_ratio",
        "gauge",
        "Largest resident set for each byte of the rank's objects.",
        "memory_ratio",
    ),
    ("rank_peak_memory_bytes", "gauge", "Largest resident set.", "peak_memory_bytes"),
)
"""Metrics that are one figure of each rank: name, type, what it is, and the report's attribute."""


def render(group: GroupReport, ranks: Sequence[RankReport]) -> str:
    """Write the metrics of one pod.

    Args:
        group: what the pod knows of its group.
        ranks: the pod's own ranks; those of other pods are scraped there.
    """
    return "".join(
        _family(name, kind, text, samples)
        for name, kind, text, samples in [*_of_group(group), *_of_ranks(ranks)]
    )


def escape(value: str) -> str:
    """Escape a label's value (Prometheus text format 0.0.4)."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _of_group(group: GroupReport) -> list[Family]:
    join = _known(group.join_seconds)
    skew = group.load_skew if group.complete else None  # of its own ranks alone it says nothing
    return [
        ("group_world_size", "gauge", "Ranks of the group.", [({}, group.world_size)]),
        (
            "group_incarnation",
            "gauge",
            "How often the group began anew.",
            [({}, group.incarnation)],
        ),
        ("group_formed", "gauge", "1 while the group is whole.", [({}, group.formed)]),
        ("group_join_seconds", "gauge", "Forming the group, load excluded.", join),
        ("group_load_skew", "gauge", "Slowest by median seconds of a load.", _known(skew)),
    ]


def _of_ranks(ranks: Sequence[RankReport]) -> list[Family]:
    figures: list[Family] = [
        (name, kind, text, [(_labels(rank), getattr(rank, attribute)) for rank in ranks])
        for name, kind, text, attribute in RANK_FIGURES
    ]
    phases = [
        (_labels(rank) | {"phase": phase}, seconds)
        for rank in ranks
        for phase, seconds in rank.phase_seconds.items()
    ]
    loaded = [sample for rank in ranks for sample in _known(rank.loaded_at, _labels(rank))]
    states: list[Sample] = [
        (_labels(rank) | {"state": state}, rank.state == state)
        for rank in ranks
        for state in get_args(RankState)
    ]
    return [
        *figures,
        ("rank_loaded_timestamp_seconds", "gauge", "When its weights were verified.", loaded),
        ("rank_phase_seconds", "gauge", "Wall time of one phase.", phases),
        ("rank_state", "gauge", "1 for the state that the rank is in.", states),
    ]


def _known(value: float | None, labels: Labels | None = None) -> list[Sample]:
    """One sample; none of what is not known yet."""
    return [] if value is None else [(labels or {}, value)]


def _labels(rank: RankReport) -> Labels:
    return {"rank": str(rank.rank)}


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    full = f"shardedmodel_{name}"
    lines = [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
    for labels, number in samples:
        inside = ",".join(f'{key}="{escape(value)}"' for key, value in labels.items())
        lines.append(f"{full}{{{inside}}} {float(number)}" if inside else f"{full} {float(number)}")
    return "\n".join(lines) + "\n"
