from __future__ import annotations

import re
from pathlib import Path

from shardedmodel_runtime.rank.metrics import escape, render
from shardedmodel_runtime.report import GroupReport, RankReport

GROUP = GroupReport(layout_hash="0123abcd", world_size=2)


def test_large_numbers_keep_every_digit() -> None:
    text = render(GROUP, [RankReport(rank=1, bytes=140_000_000_001)])
    assert 'shardedmodel_rank_bytes{rank="1"} 140000000001.0' in text.splitlines()


def test_a_rank_is_in_exactly_one_state() -> None:
    text = render(GROUP, [RankReport(rank=0, state="ready")])
    on = re.findall(r'shardedmodel_rank_state\{rank="0",state="(\w+)"\} 1\.0', text)
    assert on == ["ready"]


def test_phases_are_labelled() -> None:
    text = render(GROUP, [RankReport(rank=0, phase_seconds={"read": 1.5})])
    assert 'shardedmodel_rank_phase_seconds{rank="0",phase="read"} 1.5' in text


def test_a_time_that_is_not_known_yet_has_no_sample() -> None:
    assert "shardedmodel_group_join_seconds " not in re.sub(r"# .*\n", "", render(GROUP, []))


def test_skew_is_the_slowest_load_by_the_median_one_and_rank_0_tells_it() -> None:
    ranks = [RankReport(rank=r, seconds=s, loaded_at=1.0) for r, s in enumerate((1, 2, 5))]
    group = GroupReport(layout_hash="0123abcd", world_size=3, complete=True, ranks=ranks)
    assert "shardedmodel_group_load_skew 2.5" in render(group, []).splitlines()
    part = group.model_copy(update={"complete": False})
    assert not re.search(r"^shardedmodel_group_load_skew ", render(part, []), re.MULTILINE)


def test_ranks_that_still_load_do_not_count_for_the_skew() -> None:
    ranks = [RankReport(rank=0, seconds=2, loaded_at=1.0), RankReport(rank=1, seconds=9)]
    assert GroupReport(layout_hash="0", world_size=2, ranks=ranks).load_skew == 1
    assert GroupReport(layout_hash="0", world_size=2, ranks=ranks[1:]).load_skew is None


def test_a_rank_tells_when_its_weights_were_there() -> None:
    text = render(GROUP, [RankReport(rank=0), RankReport(rank=1, loaded_at=1.5)])
    name = "shardedmodel_rank_loaded_timestamp_seconds"
    assert re.findall(rf"^{name}.*", text, re.MULTILINE) == [f'{name}{{rank="1"}} 1.5']


def test_every_sample_belongs_to_a_family_with_help_and_type() -> None:
    text = render(GROUP, [RankReport(rank=0, phase_seconds={"read": 1.0})])
    samples = set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))
    assert samples <= set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))


def test_ratios_follow_from_bytes() -> None:
    rank = RankReport(rank=0, bytes=100, bytes_read=150, peak_memory_bytes=300)
    lines = render(GROUP, [rank]).splitlines()
    assert 'shardedmodel_rank_read_amplification{rank="0"} 1.5' in lines
    assert 'shardedmodel_rank_memory_ratio{rank="0"} 3.0' in lines


def test_every_family_is_documented() -> None:
    families = re.findall(r"^# TYPE (\w+) ", render(GROUP, []), re.MULTILINE)
    text = (Path(__file__).parents[4] / "docs" / "runtime.md").read_text()
    assert [name for name in families if f"`{name}`" not in text] == []


def test_labels_are_escaped() -> None:
    assert escape('a"b\\c\nd') == r"a\"b\\c\nd"
