from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardedmodel_runtime.layout.parts import MAX_OBJECT_BYTES, MAX_PARTS, split_into_parts


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 40))
def test_every_piece_is_in_one_part_and_in_order(sizes: list[int], least: int) -> None:
    parts = split_into_parts(sizes, least)
    assert [index for first, stop in parts for index in range(first, stop)] == [*range(len(sizes))]
    assert all(first < stop for first, stop in parts)


def test_parts_are_about_equal() -> None:
    assert split_into_parts([10] * 12, 30) == [(0, 3), (3, 6), (6, 9), (9, 12)]


def test_what_is_small_is_one_part() -> None:
    assert split_into_parts([10] * 12, 61) == [(0, 12)]


def test_a_large_model_has_no_more_parts_than_people_can_look_through() -> None:
    assert len(split_into_parts([10] * 1000, 1)) == MAX_PARTS


def test_a_part_is_never_larger_than_an_upload_can_be() -> None:
    parts = split_into_parts([2**30] * 4000)
    assert max(stop - first for first, stop in parts) * 2**30 <= MAX_OBJECT_BYTES
