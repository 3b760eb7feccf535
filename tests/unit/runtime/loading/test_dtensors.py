"""What a DTensor cannot express is refused; what it can is in integration, with a real group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from torch.distributed.device_mesh import DeviceMesh

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.dtensors import to_dtensors
from shardedmodel_runtime.loading.loader import load
from shardedmodel_runtime.loading.shard import LoadedShard
from tests.builders.rank_layout import write_layout


@dataclass
class Mesh:
    """As much of a mesh as is looked at before a group is needed."""

    shape: tuple[int, ...] = (2,)
    rank: int = 0

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def size(self) -> int:
        return self.shape[0]

    def get_local_rank(self) -> int:
        return self.rank


def wrap(shard: LoadedShard, mesh: Mesh | None = None) -> None:
    to_dtensors(shard, cast(DeviceMesh, mesh or Mesh()))


@pytest.fixture
def shard(tmp_path: Path) -> LoadedShard:
    layout = write_layout(tmp_path, 2)
    return load(ModelLoadConfig(layout=layout.uri, world_size=2, device="cpu"))


def recut(shard: LoadedShard, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> LoadedShard:
    """The shard, with the cut of ``column.weight`` (64 rows over two ranks) changed."""
    cuts = dict(shard.manifest.tensors)
    cut = cuts["column.weight"]
    cuts["column.weight"] = replace(cut, axes=(replace(cut.axes[0], **changes),))
    monkeypatch.setattr(type(shard.manifest), "tensors", property(lambda self: cuts))
    return shard


@pytest.mark.parametrize("shape", [(4,), (2, 1)])
def test_a_mesh_of_another_shape_is_refused(shard: LoadedShard, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="use a one-dimensional mesh of 2"):
        wrap(shard, Mesh(shape))


def test_the_shard_of_another_rank_is_refused(shard: LoadedShard) -> None:
    with pytest.raises(ConfigurationError, match="that of tensor rank 0, and this process is 1"):
        wrap(shard, Mesh(rank=1))


def test_elements_that_torch_lacks_are_refused(
    shard: LoadedShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = dict(shard.manifest.tensors)
    cuts["column.weight"] = replace(cuts["column.weight"], dtype="F4")
    monkeypatch.setattr(type(shard.manifest), "tensors", property(lambda self: cuts))
    with pytest.raises(ConfigurationError, match=r"'column\.weight': torch has no elements of F4"):
        wrap(shard)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pad": (0, 1)}, "it is padded"),
        ({"ranges": (((0, 16), (32, 48)), ((16, 32), (48, 64)))}, "other than equal parts"),
        ({"ranges": (((0, 48),), ((16, 64),))}, "other than equal parts"),
        ({"over": "expert"}, "cut over expert ranks"),
    ],
)
def test_a_cut_that_a_dtensor_cannot_express_is_refused_by_name(
    shard: LoadedShard, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"'column\.weight': .*{says}"):
        wrap(recut(shard, monkeypatch, **changes))
