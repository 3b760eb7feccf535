"""What a soak comes to: a dated JSON with every count, and the same in Markdown for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import records
from tests.soak.actor import Tally
from tests.soak.choices import Choice
from tests.soak.memory import MIB, Life
from tests.soak.script import Kind, Script
from tests.soak.state import Object, condition, name_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is known when a soak has ended."""

    script: Script
    tally: Tally
    models: Sequence[Object]
    """As they came to rest."""
    settle_seconds: float
    """From the last action until nothing was found any more."""
    findings: Sequence[str]
    lives: Sequence[Life]
    objects: Mapping[str, int]
    """Objects at the end, by kind."""
    layouts: Mapping[str, int]
    """Layouts at the end, by folder of the bucket."""
    events: Counter[str]
    """Events by reason, each with its count."""


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The whole outcome."""
    script, tally = outcome.script, outcome.tally
    return records.heading("chaos among models on a real cluster, by seed") | {
        "seed": script.seed,
        "minutes": script.seconds / 60,
        "models": len(script.models),
        "actions": {kind: _counts(tally, kind) for kind in map(str, Kind)},
        "failed": tally.failed,
        "settleSeconds": round(outcome.settle_seconds, 1),
        "end": [_rest(model, script.wanted) for model in outcome.models],
        "objects": dict(outcome.objects),
        "layouts": dict(outcome.layouts),
        "events": dict(sorted(outcome.events.items())),
        "operators": [_life(life) for life in outcome.lives],
        "findings": list(outcome.findings),
    }


def _counts(tally: Tally, kind: str) -> dict[str, int]:
    return {"done": tally.done[kind], "nothingThere": tally.missed[kind]}


def _rest(model: Object, wanted: Mapping[str, Choice]) -> dict[str, Any]:
    ready, choice = condition(model, "Ready"), wanted.get(name_of(model))
    return {
        "name": name_of(model),
        "wanted": asdict(choice) if choice else None,
        "ready": ready.get("status"),
        "reason": ready.get("reason"),
        "groups": (model.get("status") or {}).get("readyReplicas", 0),
    }


def _life(life: Life) -> dict[str, Any]:
    sizes = [size for _, size in life.samples]
    told = {
        "pod": life.pod,
        "from": life.samples[0][0],
        "to": life.samples[-1][0],
        "startMiB": _mib(sizes[0]),
        "endMiB": _mib(sizes[-1]),
        "mostMiB": _mib(max(sizes)),
    }
    if life.warm:
        told["warmMiB"] = _mib(life.warm[0][1])
    if life.judged:
        told["slopeMiBPerMinute"] = round(life.bytes_per_minute / MIB, 3)
    if (by_change := life.bytes_per_change) is not None:
        told["slopeKiBPerChange"] = round(by_change / 1024, 2)
    return told


def _mib(size: float) -> float:
    return round(size / MIB, 1)


def as_markdown(told: Mapping[str, Any]) -> str:
    """The JSON's content as a page."""
    did = {kind: counts for kind, counts in told["actions"].items() if any(counts.values())}
    total = sum(counts["done"] for counts in did.values())
    rows = [
        f"# Soak, {told['date']}",
        "",
        f"{told['minutes']:g} minutes, seed {told['seed']}, {told['models']} models, {total} "
        f"actions on {told['machine']['cores']} cores ({told['machine']['system']}). Settled "
        f"{told['settleSeconds']:.0f} s after the last action. Again: `make soak "
        f'SOAK_ARGS="--seed {told["seed"]} --minutes {told["minutes"]:g}"`.',
        "",
        "| action | done | found nothing to do it to |",
        "|---|---|---|",
        *(f"| {kind} | {c['done']} | {c['nothingThere']} |" for kind, c in did.items()),
        "",
        "| model | asked for | came to rest as |",
        "|---|---|---|",
        *(f"| {m['name']} | {_asked(m['wanted'])} | {m['reason']} |" for m in told["end"]),
        "",
        f"Objects at the end: {_listed(told['objects'])}. Layouts: {_listed(told['layouts'])}.",
        "",
        "| operator | alive (s) | start (MiB) | after warm-up | end | most | slope (MiB/min) "
        "| slope (KiB/change) |",
        "|---|---|---|---|---|---|---|---|",
        *(_operator_row(life) for life in told["operators"]),
        "",
        "Findings: " + ("none." if not told["findings"] else ""),
        *(f"- {finding}" for finding in told["findings"]),
    ]
    return "\n".join(rows).rstrip() + "\n"


def _asked(wanted: Mapping[str, Any] | None) -> str:
    if wanted is None:
        return "nothing"
    words = [f"{wanted['replicas']} x {wanted['tensor']} ranks of {wanted['source']}"]
    words += ["suspended"] if wanted["suspend"] else []
    words += [f"flaw: {wanted['flaw']}"] if wanted["flaw"] != "none" else []
    return ", ".join(words)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def _operator_row(life: Mapping[str, Any]) -> str:
    figures = [life.get(key, "-") for key in ("startMiB", "warmMiB", "endMiB", "mostMiB")]
    alive = f"{life['from']:.0f} to {life['to']:.0f}"
    slopes = [life.get(key, "-") for key in ("slopeMiBPerMinute", "slopeKiBPerChange")]
    cells = [life["pod"], alive, *figures, *slopes]
    return f"| {' | '.join(map(str, cells))} |"
