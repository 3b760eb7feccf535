"""Prometheus' text format 0.0.4: families of samples, and histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

PREFIX = "shardedmodel_operator_"

Labels = Mapping[str, str]
Sample = tuple[Labels, float]
Kind = Literal["counter", "gauge"]


class Histogram:
    """Counts durations by one label, in buckets."""

    def __init__(self, buckets: Sequence[float]) -> None:
        """Count into ``buckets`` (seconds, ascending, without infinity)."""
        self.buckets = tuple(buckets)
        self.counts: Counter[tuple[str, float]] = Counter()
        """Observations at or below a bound, by label and bound; infinity has them all."""
        self.sums: Counter[str] = Counter()

    def observe(self, seconds: float, label: str) -> None:
        """Count one duration."""
        for bound in (*self.buckets, float("inf")):
            # Also where there is nothing to add: an absent bucket looks like one that is new.
            self.counts[label, bound] += seconds <= bound
        self.sums[label] += seconds  # type: ignore[assignment]  # Counter takes any number


def family(name: str, kind: Kind, text: str, samples: Iterable[Sample]) -> str:
    """Write one family.

    Args:
        name: without the prefix.
        kind: what Prometheus is told that it is.
        text: what it is, for people; one line.
        samples: values by labels.
    """
    head = f"# HELP {PREFIX}{name} {text}\n# TYPE {PREFIX}{name} {kind}\n"
    return head + "".join(_line(name, labels, value) for labels, value in samples)


def histogram(name: str, text: str, label: str, values: Histogram) -> str:
    """Write a histogram; the arguments are those of ``family``."""
    head = f"# HELP {PREFIX}{name} {text}\n# TYPE {PREFIX}{name} histogram\n"
    # Copies: they grow in other threads.
    counts, sums = sorted(dict(values.counts).items()), sorted(dict(values.sums).items())
    lines = [
        _line(f"{name}_bucket", {label: of, "le": f"{bound:g}".replace("inf", "+Inf")}, count)
        for (of, bound), count in counts
    ]
    for of, total in sums:
        lines.append(_line(f"{name}_sum", {label: of}, total))
        lines.append(_line(f"{name}_count", {label: of}, values.counts[of, float("inf")]))
    return head + "".join(lines)


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return (
        f"{PREFIX}{name}{{{inside}}} {value:.15g}\n" if inside else f"{PREFIX}{name} {value:.15g}\n"
    )


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
