"""New weights into the memory of an earlier load: what it may be, and what it holds then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader, load
from tests.builders.rank_layout import Layout, raw, small_model, write_layout


def config(layout: Layout, rank: int = 0, **values: Any) -> ModelLoadConfig:
    world_size = layout.manifest.world_size
    return ModelLoadConfig(layout=layout.uri, world_size=world_size, rank=rank, **values)


def test_new_weights_come_into_the_memory_of_an_earlier_load(tmp_path: Path) -> None:
    first = write_layout(tmp_path / "first", 2)
    other = {name: tensor + 1 for name, tensor in small_model().items()}
    second = write_layout(tmp_path / "second", 2, other)
    held = load(config(first, map_files=False))
    load(config(second), into=held)
    assert {name: raw(tensor) for name, tensor in held.state_dict.items()} == {
        name: raw(tensor) for name, tensor in second.expected[0].items()
    }


def test_new_weights_come_into_that_memory_from_the_cache_too(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", 2)
    cached = config(layout, cache=str(tmp_path / "cache"))
    load(cached)
    held = load(config(layout, map_files=False))
    for tensor in held.state_dict.values():
        tensor.zero_()
    shard = DistributedCheckpointLoader(cached).load(into=held)
    assert shard.report.cache_hits == len(held.memory)
    assert {name: raw(tensor) for name, tensor in held.state_dict.items()} == {
        name: raw(tensor) for name, tensor in layout.expected[0].items()
    }


def test_memory_of_another_rank_is_refused(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2)
    with pytest.raises(ConfigurationError, match="the shard of rank 1, and rank 0 is loaded"):
        DistributedCheckpointLoader(config(layout)).load(into=load(config(layout, 1)))


def test_memory_of_objects_of_other_sizes_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    held = load(config(write_layout(tmp_path / "first", 2)))
    before = held.memory[0].clone()
    larger = write_layout(tmp_path / "second", 2, small_model(128))
    with pytest.raises(ConfigurationError, match=r"into: holds objects of .* bytes"):
        DistributedCheckpointLoader(config(larger)).load(into=held)
    assert torch.equal(held.memory[0], before)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: dict(reversed(model.items())),
        lambda model: {**model, "column.bias": model["column.bias"].to(torch.float16)},
        lambda model: {**model, "column.weight": model["column.weight"].reshape(128, 24)},
        lambda model: {name.replace("bias", "tilt"): tensor for name, tensor in model.items()},
    ],
    ids=["order", "dtype", "shape", "name"],
)
def test_memory_in_which_other_tensors_lie_is_refused_before_it_is_touched(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    model = {**small_model(), "column.second": torch.randn(64, 48)}
    held = load(config(write_layout(tmp_path / "first", 2, model)))
    before = held.memory[0].clone()
    second = write_layout(tmp_path / "second", 2, change(model))
    with pytest.raises(ConfigurationError, match=r"into: holds 'column\..* where the layout has"):
        DistributedCheckpointLoader(config(second)).load(into=held)
    assert torch.equal(held.memory[0], before)
