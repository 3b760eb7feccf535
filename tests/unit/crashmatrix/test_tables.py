from __future__ import annotations

from tests.crashmatrix import tables
from tests.crashmatrix.calls import Call
from tests.crashmatrix.deaths import Death
from tests.crashmatrix.faults import FAULTS, Fault, FaultCell
from tests.crashmatrix.lives import ALIKE, NOT_REACHED, Cell, Ending

CALL = Call("PATCH", "/apis/batch/v1/namespaces/life-1/jobs/m")
ENDINGS = {"create": Ending({}, {}, (CALL, CALL), ()), "delete": Ending({}, {}, (CALL,), ())}


def cell(outcome: str, step: str = "create", number: int = 0) -> Cell:
    return Cell(Death(step, number, "before"), str(CALL), outcome, 12.34, "life-1")


def test_each_step_has_a_row_and_all_have_one() -> None:
    cells = [cell(ALIKE), cell(NOT_REACHED, number=1), cell("Job b is surplus", "delete")]
    assert tables.deaths_table(ENDINGS, 6, cells).splitlines()[2:] == [
        "| create | 2 | 2 | 1 | 1 | 0 |",
        "| delete | 1 | 1 | 0 | 0 | 1 |",
        "| **all** (of 6 deaths) | 3 | 3 | 1 | 1 | 1 |",
    ]


def test_a_death_that_was_not_reached_has_not_failed() -> None:
    outcomes = (ALIKE, NOT_REACHED, "something else")
    assert [cell(outcome).failed for outcome in outcomes] == [False, False, True]


def test_the_file_tells_each_death_and_the_calls_of_each_step() -> None:
    told = tables.deaths_json(ENDINGS, [cell(ALIKE)])
    assert told["steps"] == {"create": ["patch jobs", "patch jobs"], "delete": ["patch jobs"]}
    assert told["cells"] == [
        {
            "step": "create",
            "number": 0,
            "when": "before",
            "call": "patch jobs",
            "outcome": ALIKE,
            "seconds": 12.3,
        }
    ]


def fault_cell(fault: Fault, outcome: str) -> FaultCell:
    return FaultCell(fault, outcome, 7.6, "yes", "life-2")


def test_each_fault_has_a_row() -> None:
    fault = FAULTS[0]
    rows = tables.faults_table([fault_cell(fault, ALIKE), fault_cell(fault, "no end")])
    assert rows.splitlines()[2:] == [
        f"| {fault.phase.name} | {fault.victim.name} | alike | 8 | yes |",
        f"| {fault.phase.name} | {fault.victim.name} | FAILED | 8 | yes |",
    ]
