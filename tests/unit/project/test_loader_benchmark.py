"""How the benchmark of loaders tells what it found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.summary import markdown
from benchmarks.trust import BUNDLE, trusting

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


def may_mount() -> bool:
    command = ["unshare", "--mount", "true"]
    return BUNDLE.exists() and subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="needs root, and the system's bundle")
def test_what_trusts_a_certificate_beside_the_systems_sees_both_and_the_rest_does_not(
    tmp_path: Path,
) -> None:
    before = BUNDLE.read_bytes()
    certificate = tmp_path / "cert.pem"
    certificate.write_bytes(b"one more\n")
    seen = subprocess.check_output([*trusting(certificate, tmp_path), "cat", str(BUNDLE)])
    assert seen == before + b"one more\n"
    assert BUNDLE.read_bytes() == before
