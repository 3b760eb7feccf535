"""What the records of all benchmarks share."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

from benchmarks import records


def test_a_record_begins_with_what_was_measured_when_and_on_what() -> None:
    heading = records.heading("a layout into memory")
    assert list(heading) == ["what", "date", "machine"]
    assert date.fromisoformat(heading["date"])
    assert heading["machine"]["cores"] == os.cpu_count()


def test_a_record_lies_under_its_own_date_even_if_midnight_has_passed(tmp_path: Path) -> None:
    record = records.heading("a layout into memory") | {"date": "2020-02-29", "runs": 5}
    path = records.write(record, tmp_path, "loader")
    assert path == tmp_path / "loader-2020-02-29.json"
    assert json.loads(path.read_text()) == record


def test_a_spread_is_the_median_between_the_least_and_the_most() -> None:
    assert records.spread([3.0, 1.00049, 2.0, 10.0]) == {"median": 2.5, "least": 1.0, "most": 10.0}


def test_every_benchmark_shows_its_own_words_and_writes_beside_itself() -> None:
    parser = records.parser("planning", "What it measures.\n\nOf what.")
    assert "python -m benchmarks.planning" in parser.format_help()
    assert "What it measures.\n\nOf what." in parser.format_help()
    assert parser.parse_args([]).output == Path(records.__file__).parent
