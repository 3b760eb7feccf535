from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from shardedmodel_runtime.errors import ChecksumMismatch
from shardedmodel_runtime.report import (
    MESSAGE_LIMIT,
    TERMINATION_MESSAGE_LIMIT,
    Failure,
    GroupReport,
    RankReport,
    ReplicatedSummary,
    ShardSummary,
)


def test_a_failure_is_left_for_the_kubelet(tmp_path: Path) -> None:
    failure = Failure.of(ChecksumMismatch("block 1 differs"))
    failure.leave_in(tmp_path / "log")
    assert Failure.model_validate_json((tmp_path / "log").read_bytes()) == failure


@pytest.mark.parametrize("character", ["x", "é", "漢", "🂡", "\x01", '"'])
def test_the_longest_failure_stays_whole_within_what_the_kubelet_keeps(
    tmp_path: Path, character: str
) -> None:
    Failure.of(ChecksumMismatch(character * 5000)).leave_in(tmp_path / "log")
    kept = (tmp_path / "log").read_bytes()[:TERMINATION_MESSAGE_LIMIT]
    failure = Failure.model_validate_json(kept)
    assert failure.reason == "ChecksumMismatch"
    assert failure.message.startswith(character * (MESSAGE_LIMIT // 2))


def test_a_summary_with_endless_names_leaves_out_examples(tmp_path: Path) -> None:
    unmatched = ReplicatedSummary(tensors=5, bytes=1, examples=["名" * 1000] * 5)
    summary = ShardSummary(
        layout_hash="0123abcd",
        manifest_uri="s3://shards/0123abcd/manifest.json",
        objects=1,
        bytes=1,
        source_bytes=1,
        source_bytes_read=1,
        max_rank_bytes=1,
        seconds=1,
        peak_memory_bytes=1,
        unmatched=unmatched,
    )
    summary.leave_in(tmp_path / "log")
    kept = ShardSummary.model_validate_json((tmp_path / "log").read_bytes())
    assert (kept.unmatched.tensors, len(kept.unmatched.examples)) == (5, 1)


def test_without_a_termination_log_nothing_is_written(tmp_path: Path) -> None:
    Failure.of(ChecksumMismatch("x")).leave_in(None)
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_does_not_hide_the_failure_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Failure.of(ChecksumMismatch("x")).leave_in(tmp_path / "missing" / "log")
    assert "cannot leave a termination message" in caplog.text


def newer_report() -> bytes:
    """What ranks of a later release may write."""
    report = json.loads(
        GroupReport(layout_hash="ab", world_size=1, ranks=[RankReport(rank=0)]).to_json()
    )
    report["temperature"] = 40
    report["ranks"][0]["temperature"] = {"celsius": 40}
    return json.dumps(report).encode()


def test_a_reader_ignores_fields_that_a_later_release_has_added() -> None:
    assert GroupReport.read(newer_report()).ranks == [RankReport(rank=0)]


def test_a_reader_refuses_values_that_cannot_be_meant() -> None:
    wrong = newer_report().replace(b'"worldSize": 1', b'"worldSize": 0')
    with pytest.raises(ValidationError, match="worldSize"):
        GroupReport.read(wrong)


def test_a_writer_refuses_fields_that_the_schema_does_not_have() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        RankReport(rank=0, temperature=40)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="temperature"):
        GroupReport.model_validate_json(newer_report())
