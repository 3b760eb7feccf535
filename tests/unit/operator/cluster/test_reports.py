from __future__ import annotations

import pytest

from shardedmodel_operator.cluster.reports import _keep
from shardedmodel_operator.planning.observed import ReportTarget
from shardedmodel_runtime.report import GroupReport

TARGET = ReportTarget("llama-0", "http://10.0.0.1:8080/report", "GroupReport")


def kept(answer: bytes | None) -> dict[str, GroupReport]:
    reports: dict[str, GroupReport] = {}
    _keep(reports, TARGET, GroupReport, answer)
    return reports


def test_a_valid_report_is_kept_under_its_target() -> None:
    answer = GroupReport(layout_hash="ab", world_size=2).to_json().encode()
    assert kept(answer)["llama-0"].world_size == 2


def test_a_report_of_a_later_release_is_kept() -> None:
    answer = b'{"layoutHash": "ab", "worldSize": 2, "ranks": [{"rank": 1, "new": 1}], "new": []}'
    assert kept(answer)["llama-0"].ranks[0].rank == 1


@pytest.mark.parametrize(
    "answer", [None, b"", b"<html>", b'{"layoutHash": "ab"}', b'{"unknown": 1}']
)
def test_an_answer_against_the_schema_is_no_report(answer: bytes | None) -> None:
    assert kept(answer) == {}
