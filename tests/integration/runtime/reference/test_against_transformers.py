"""Every small model of ``cases``, split over 2 and 4 processes, against transformers.

``python -m tests.integration.runtime.reference`` prints the same as a table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.sharding.architectures.decoders import DECODERS
from shardedmodel_runtime.sharding.architectures.encoders import ENCODERS
from tests.integration.runtime.reference.cases import BY_HAND, CARRIED, LOGITS, WORLDS, Case
from tests.integration.runtime.reference.verdicts import DAMAGED, OTHER, SAME, THEIRS

Results = list[dict[str, Any]]

LARGEST_DIFFERENCE = 1e-4
"""Of fp32 logits: what another order of summation makes of them is a hundred times less."""
SMALLEST_LOGIT = 0.05
"""Random weights are so wide that the logits cannot be near each other by being near zero."""


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What every rank of every group found, for every case."""
    out = tmp_path_factory.mktemp("reference") / "results.json"
    root = Path(__file__).parents[4]
    command = [sys.executable, "-m", "tests.integration.runtime.reference", str(out)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
    found: Results = json.loads(out.read_text())
    return found


@pytest.fixture
def of(results: Results) -> Callable[[Case, int], Results]:
    """The results of one case in groups of one size, of all ranks."""

    def select(case: Case, world: int) -> Results:
        found = [item for item in results if (item["case"], item["world"]) == (case.name, world)]
        assert [item.get("error", "") for item in found] == [""] * world
        return found

    return select


def names(cases: tuple[Case, ...]) -> list[str]:
    return [case.name for case in cases]


def test_there_are_as_many_architectures_as_promised() -> None:
    assert len(CARRIED) >= 25
    assert len(LOGITS) >= 12


def test_every_architecture_by_hand_is_run() -> None:
    by_hand = {case.model_type for case in BY_HAND if case.name in LOGITS}
    assert {*DECODERS, *ENCODERS} - by_hand == set()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", CARRIED, ids=names(CARRIED))
def test_a_rank_holds_the_bits_that_transformers_puts_on_it(
    of: Callable[[Case, int], Results], case: Case, world: int
) -> None:
    for result in of(case, world):
        verdicts: dict[str, str] = result["verdicts"]
        different = {name for name, word in verdicts.items() if word in (OTHER, DAMAGED)}
        assert {name for name in different if not name.endswith(case.apart)} == set()
        assert THEIRS not in verdicts.values()
        # The embedding, and at least an attention or experts in each of both layers.
        assert list(verdicts.values()).count(SAME) >= 5


LOGIT_CASES = tuple(case for case in (*CARRIED, *BY_HAND) if case.name in LOGITS)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", LOGIT_CASES, ids=names(LOGIT_CASES))
def test_the_logits_of_the_sharded_model_are_those_of_the_whole(
    of: Callable[[Case, int], Results], case: Case, world: int
) -> None:
    for result in of(case, world):
        assert result["largest"] > SMALLEST_LOGIT
        assert result["difference"] <= LARGEST_DIFFERENCE


def test_shards_of_other_ranks_give_other_logits(results: Results) -> None:
    swapped = [item["swapped"] for item in results if "swapped" in item]
    assert len(swapped) == sum(WORLDS)
    assert min(swapped) > 100 * LARGEST_DIFFERENCE
