"""How the benchmark of loaders tells what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.summary import markdown

RECORDS = sorted((Path(__file__).parents[3] / "benchmarks").glob("loader-*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_each_report_in_words_is_what_its_record_gives(path: Path) -> None:
    text = path.with_suffix(".md").read_text()
    assert markdown(json.loads(path.read_text()), path.stem) == text


@pytest.mark.parametrize(
    ("load", "cores", "says"),
    [
        ([1.5, 0.2, 0.1], 2, "the machine was quiet"),
        ([1.6, 0.2, 0.1], 2, "others had just used the machine"),
        ([0.1, 0.2, 1.6], 2, "others had just used the machine"),
        ([1.6, 0.2, 0.1], 4, "the machine was quiet"),
    ],
)
def test_neighbours_are_told_of_by_the_load_before_the_run(
    load: list[float], cores: int, says: str
) -> None:
    record: dict[str, Any] = {
        "date": "2020-02-29",
        "machine": {"cores": cores, "system": "Linux"},
        "rounds": 1,
        "loadAverage": {"before": load, "after": [9.0, 9.0, 9.0]},
        "scenes": {},
    }
    assert says in markdown(record, "loader-2020-02-29")
