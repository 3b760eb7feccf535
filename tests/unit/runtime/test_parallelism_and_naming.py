from __future__ import annotations

from typing import Any

import pytest

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.naming import (
    HASH_LENGTH,
    folder_of,
    layout_hash,
    part_key,
    request_hash,
)
from shardedmodel_runtime.parallelism import MAX_DEGREE, Parallelism


@pytest.mark.parametrize("kind", ["tensor", "pipeline", "expert"])
@pytest.mark.parametrize("degree", [0, -1, MAX_DEGREE + 1])
def test_a_degree_out_of_bounds_is_refused_by_field(kind: str, degree: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"parallelism\.{kind}: {degree}"):
        Parallelism(**{kind: degree})


def test_ranks_of_a_tensor_group_are_neighbours() -> None:
    places = [(c.tensor, c.expert, c.pipeline) for c in Parallelism(2, 2, 2).coordinates()]
    assert places[:4] == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]
    assert len(set(places)) == 8


@pytest.mark.parametrize("rank", [-1, 4])
def test_a_rank_that_does_not_exist_has_no_place(rank: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"rank: {rank}"):
        Parallelism(4).coordinate(rank)


@pytest.mark.parametrize(
    ("place", "folder"),
    [
        ({"tensor": 3}, "tp-00003-of-00008"),
        ({"tensor": 3, "stages": (0,)}, "tp-00003-of-00008.pp-00000-of-00004"),
        (
            {"tensor": 3, "stages": (0,), "expert": 1},
            "tp-00003-of-00008.pp-00000-of-00004.ep-00001-of-00002",
        ),
        ({"expert": 1}, "ep-00001-of-00002"),
        ({"stages": (0, 3)}, "pp-00000-and-00003-of-00004"),
        ({}, "common"),
    ],
)
def test_a_folder_says_which_ranks_hold_what_is_in_it(place: dict[str, Any], folder: str) -> None:
    assert folder_of(Parallelism(8, 4, 2), **place) == folder
    assert part_key(folder) == f"{folder}/part-00000.safetensors"


def test_ranks_are_found_by_what_they_have_in_common() -> None:
    degrees = Parallelism(2, 2, 2)
    assert degrees.ranks_at() == tuple(range(8))
    assert degrees.ranks_at(tensor=1, expert=0) == (1, 5)
    assert degrees.ranks_at(stages=(1,)) == (4, 5, 6, 7)


def test_more_ranks_than_one_group_can_have_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="are 8192 ranks, more than 4096"):
        Parallelism(8, 1024)


REQUEST: dict[str, Any] = {
    "source_uri": "s3://models/llama",
    "revision": "",
    "endpoint_url": "",
    "storage_uri": "s3://shards",
    "storage_endpoint_url": "",
    "parallelism": Parallelism(4),
    "dtype": "keep",
    "rules": [],
}


def test_a_trailing_slash_makes_no_other_request() -> None:
    slash = {**REQUEST, "source_uri": "s3://models/llama/"}
    assert request_hash(**slash) == request_hash(**REQUEST)


@pytest.mark.parametrize(
    "change",
    [
        {"source_uri": "s3://models/other"},
        {"revision": "2"},
        {"endpoint_url": "http://other"},
        {"storage_uri": "s3://elsewhere"},
        {"parallelism": Parallelism(8)},
        {"rules": [{"match": "*", "strategy": "replicate"}]},
    ],
)
def test_whatever_is_asked_otherwise_is_another_request(change: dict[str, Any]) -> None:
    assert request_hash(**{**REQUEST, **change}) != request_hash(**REQUEST)


def test_a_layouts_name_follows_from_what_it_holds() -> None:
    def name(**digests: str) -> str:
        return layout_hash(
            source_digests=digests, parallelism=Parallelism(2), dtype="keep", plan_digest="p"
        )

    assert name(a="etag:1", b="etag:2") == name(b="etag:2", a="etag:1")
    assert name(a="etag:1") != name(a="etag:2")
    assert len(name(a="etag:1")) == HASH_LENGTH
