from __future__ import annotations

from typing import Any

import pytest

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.rank.options import Place, RankOptions


def options(**values: Any) -> RankOptions:
    return RankOptions.parse({"layout": "s3://shards/0123abcd", **values})


@pytest.mark.parametrize(
    ("field", "value"),
    [("backend", "mpi"), ("local_ranks", 0), ("port", 70000), ("entrypoint", "no-function")],
)
def test_a_wrong_option_is_named_with_its_value(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as error:
        options(**{field: value})
    assert error.value.message.startswith(f"{field}: {value!r}: ")


def test_an_entrypoint_that_is_none_is_told_with_its_form() -> None:
    with pytest.raises(ConfigurationError, match=r"'serve': is not package\.module:function"):
        options(entrypoint="serve")


def test_a_pod_has_the_ranks_of_its_ordinal() -> None:
    place = Place(pod="llama-abc-2")
    assert place.first_rank(options(world_size=8, local_ranks=2)) == 4


def test_without_a_pod_ranks_begin_at_0() -> None:
    assert Place().first_rank(options()) == 0


@pytest.mark.parametrize("pod", ["llama", "llama-x", "llama-²"])
def test_a_pod_without_an_ordinal_is_refused(pod: str) -> None:
    with pytest.raises(ConfigurationError, match="does not end in -<ordinal>"):
        Place(pod=pod).first_rank(options())


def test_a_pod_beyond_the_group_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--world-size: 3 has no place"):
        Place(pod="llama-1").first_rank(options(world_size=3, local_ranks=2))


def test_the_place_comes_from_the_environment() -> None:
    place = Place.from_environment(
        {"POD_NAME": "m-0", "POD_IP": "10.0.0.1", "NODE_NAME": "n", "MASTER_PORT": "1234"}
    )
    assert place == Place(pod="m-0", pod_ip="10.0.0.1", node="n", master_port=1234)


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="master_port: 'x'"):
        Place.from_environment({"MASTER_PORT": "x"})


@pytest.mark.parametrize(
    ("backend", "device"), [("auto", "auto"), ("gloo", "cpu"), ("nccl", "cuda")]
)
def test_the_backend_decides_the_device(backend: str, device: str) -> None:
    assert options(backend=backend).load_config(0, 0).device == device


def test_a_load_ends_within_the_deadline_of_its_pod() -> None:
    assert options(deadline_seconds=60).load_config(0, 0).deadline_seconds == 60


def test_the_layout_is_called_by_the_end_of_its_address() -> None:
    assert options().layout_hash == "0123abcd"


def test_more_ranks_than_the_group_has_are_refused_without_a_pod_too() -> None:
    with pytest.raises(ConfigurationError, match=r"no place for --local-ranks 3"):
        Place().first_rank(options(world_size=2, local_ranks=3))
