"""How the benchmark of growth makes figures of its runs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth import load_once, make_layout
from benchmarks.growth_summary import Case, Seconds, summarize, table

SMALL = Case("bytes", 100, 2, "file:///small")
LARGE = Case("bytes", 400, 8, "file:///large")
FEW = Case("tensors", 200, 10, "file:///few")
MANY = Case("tensors", 200, 1010, "file:///many")


def test_bytes_are_compared_by_the_gigabyte_with_the_smallest_of_their_round() -> None:
    runs = {
        SMALL: [Seconds(0.0, 0.1, 0.1), Seconds(0.0, 0.2, 0.2)],
        LARGE: [Seconds(0.0, 0.4, 0.4), Seconds(0.0, 0.4, 0.4)],
    }
    [small, large] = summarize(runs)["bytes"]
    assert small["ofTheFirst"]["median"] == 1
    assert large["secondsPerGigabyte"]["median"] == 1
    assert large["ofTheFirst"] == {"median": 0.75, "least": 0.5, "most": 1}
    assert "cpuMicrosecondsPerTensor" not in large


def test_tensors_cost_what_they_add_to_the_cores_time_of_the_fewest() -> None:
    runs = {FEW: [Seconds(0.001, 0.1, 0.05)], MANY: [Seconds(0.002, 0.2, 0.052)]}
    [few, many] = summarize(runs)["tensors"]
    assert "cpuMicrosecondsPerTensor" not in few
    assert many["cpuMicrosecondsPerTensor"] == 2
    assert many["metadataSeconds"]["median"] == 0.002


def test_the_table_has_a_line_for_each_case_below_its_scene() -> None:
    runs = {case: [Seconds(0.1, 0.1, 0.1)] for case in (SMALL, LARGE, FEW)}
    lines = table(summarize(runs)).splitlines()
    assert [line.split()[0] for line in lines] == ["bytes:", "100", "400", "tensors:", "200"]


def test_the_peer_is_compared_with_manifest_and_load_together() -> None:
    runs = {FEW: [Seconds(0.1, 0.1, 0.1, peer=0.4)], MANY: [Seconds(0.1, 0.1, 0.1)]}
    [few, many] = summarize(runs)["tensors"]
    assert few["safetensorsTakes"]["median"] == 2
    assert "safetensorsTakes" not in many
    assert "safetensors 2.00 times as long" in table(summarize(runs))


def test_loads_into_held_memory_are_told_by_the_gigabyte() -> None:
    runs = {LARGE: [Seconds(0.0, 0.4, 0.4, held=0.2)], SMALL: [Seconds(0.0, 0.1, 0.1)]}
    [large, small] = summarize(runs)["bytes"]
    assert large["heldMemorySecondsPerGigabyte"]["median"] == 0.5
    assert "heldMemorySecondsPerGigabyte" not in small
    assert "0.500 s/GB into held memory" in table(summarize(runs))


def test_a_case_tells_its_seconds_and_holds_its_tensors(tmp_path: Path) -> None:
    uri = make_layout(tmp_path, 1, 10)
    seconds = load_once(Case("tensors", 1, 10, uri))
    assert seconds.peer is not None
    assert min(seconds.metadata, seconds.load, seconds.cpu, seconds.peer) > 0
