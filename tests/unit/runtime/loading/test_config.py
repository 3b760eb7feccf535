from __future__ import annotations

import time
from typing import Any

import pytest

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.loading.config import ModelLoadConfig, seconds_until


def config(**values: Any) -> ModelLoadConfig:
    return ModelLoadConfig.parse({"layout": "file:///layout", **values})


def test_what_is_not_given_has_a_default_that_loads_one_rank() -> None:
    assert (config().world_size, config().rank, config().verify) == (1, 0, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("world_size", 0),
        ("concurrency", 0),
        ("device", "tpu"),
        ("range_bytes", 0),
        ("deadline_seconds", 0),
        ("deadline_seconds", float("inf")),
        ("deadline_seconds", 1e11),
        ("cache", "relative"),
        ("retries", 3),
        ("layout", ""),
    ],
)
def test_a_wrong_or_unknown_field_is_named_with_its_value(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as error:
        config(**{field: value})
    assert error.value.message.startswith(f"{field}: {value!r}: ")


def test_a_misspelt_field_is_told_with_the_name_that_was_meant() -> None:
    with pytest.raises(ConfigurationError) as error:
        ModelLoadConfig.parse({"lay_out": "file:///layout"})
    assert error.value.message == (
        "lay_out: 'file:///layout': is not a field; did you mean layout?"
    )


def test_a_field_like_none_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"'x': is not a field; there are layout, .*rank"):
        config(zzz="x")


def test_without_a_limit_a_load_has_no_deadline() -> None:
    assert seconds_until(config().deadline_from_now()) is None


def test_a_deadline_leaves_what_has_not_passed_of_it() -> None:
    left = seconds_until(config(deadline_seconds=60).deadline_from_now())
    assert left is not None
    assert 0 < left <= 60


def test_a_deadline_that_has_passed_leaves_nothing() -> None:
    assert seconds_until(time.monotonic() - 1) == 0


def test_a_rank_outside_its_group_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"rank: 2 is not below world_size, 2"):
        config(world_size=2, rank=2)
