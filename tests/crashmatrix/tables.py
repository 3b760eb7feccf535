"""The results as Markdown and JSON: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.crashmatrix.faults import FaultCell
from tests.crashmatrix.lives import ALIKE, NOT_REACHED, Cell, Ending


def deaths_table(endings: Mapping[str, Ending], planned: int, cells: Sequence[Cell]) -> str:
    """Write a row for each step: its calls, and what became of the deaths in it.

    Args:
        endings: the undisturbed life.
        planned: deaths that there are to try in all.
        cells: those that were tried.
    """
    rows = [
        "| what happens | API calls | deaths tried | end alike | not reached | failed |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for step, ending in endings.items():
        rows.append(_row(step, len(ending.trace), [c for c in cells if c.death.step == step]))
    calls = sum(len(ending.trace) for ending in endings.values())
    return "\n".join([*rows, _row(f"**all** (of {planned} deaths)", calls, cells)])


def faults_table(cells: Sequence[FaultCell]) -> str:
    """Write a row for each death of somebody else, in the order of the phases."""
    rows = ["| phase | who dies | end | seconds | served all the time |", "|---|---|---|---:|---|"]
    for cell in cells:
        end = "FAILED" if cell.failed else cell.outcome
        who = f"{cell.fault.phase.name} | {cell.fault.victim.name}"
        rows.append(f"| {who} | {end} | {cell.seconds:.0f} | {cell.served} |")
    return "\n".join(rows)


def deaths_json(endings: Mapping[str, Ending], cells: Sequence[Cell]) -> dict[str, Any]:
    """Give every death that was tried, for a file."""
    return {
        "steps": {step: [str(c) for c in ending.trace] for step, ending in endings.items()},
        "cells": [
            {
                "step": c.death.step,
                "number": c.death.number,
                "when": c.death.when,
                "call": c.call,
                "outcome": c.outcome,
                "seconds": round(c.seconds, 1),
            }
            for c in cells
        ],
    }


def faults_json(cells: Sequence[FaultCell]) -> list[dict[str, Any]]:
    """Give every cell of the second table, for a file."""
    return [
        {
            "phase": c.fault.phase.name,
            "victim": c.fault.victim.name,
            "outcome": c.outcome,
            "seconds": round(c.seconds, 1),
            "served": c.served,
        }
        for c in cells
    ]


def _row(name: str, calls: int, cells: Sequence[Cell]) -> str:
    alike = sum(c.outcome == ALIKE for c in cells)
    missed = sum(c.outcome == NOT_REACHED for c in cells)
    failed = sum(c.failed for c in cells)
    return f"| {name} | {calls} | {len(cells)} | {alike} | {missed} | {failed} |"
