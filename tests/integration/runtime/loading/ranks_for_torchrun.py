"""What each rank of a test runs under torchrun: load, wrap as DTensors, and hold them against all.

    torchrun … ranks_for_torchrun.py LAYOUT EXPECTED [share] [formed]

``EXPECTED`` is a safetensors file of the whole tensors; ``share``: ranks read together what both
hold; ``formed``: the group is there before anything is loaded, as in a training script.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.dtensors import to_dtensors
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader
from shardedmodel_runtime.loading.sharing import Sharing
from shardedmodel_runtime.rank.group import leave
from shardedmodel_runtime.rank.launch import Launch, load_group


def main(layout: str, expected: str, *options: str) -> None:
    """Load and compare; any difference is an error of the rank."""
    launch = Launch.from_environment()
    if "formed" in options:
        dist.init_process_group("gloo")
    config = ModelLoadConfig(
        layout=layout,
        device="cpu",
        share_common="share" in options,
        deadline_seconds=60,  # so that ranks read, and share, in a thread of their own
        **launch.model_dump(),
    )
    shard, group = load_group(config)
    assert [rank.rank for rank in group.ranks] == (
        list(range(launch.world_size)) if launch.rank == 0 else [launch.rank]
    )
    mesh = init_device_mesh("cpu", (launch.world_size,))
    tensors = to_dtensors(shard, mesh)
    for name, whole in load_file(expected).items():
        assert isinstance(tensors[name], DTensor)
        assert torch.equal(tensors[name].full_tensor(), whole), name
        assert tensors[name].to_local().data_ptr() == shard.state_dict[name].data_ptr()
    if "share" in options:
        load_again(config)
    groups = len(distributed_c10d._world.pg_map)
    again, _ = load_group(config)
    assert all(torch.equal(again.state_dict[name], t) for name, t in shard.state_dict.items())
    assert len(distributed_c10d._world.pg_map) == groups
    leave()


def load_again(config: ModelLoadConfig) -> None:
    """Load twice more, as who follows a model's updates does; groups do not become more."""
    loader = DistributedCheckpointLoader(config, sharing=Sharing(config.rank))
    loader.load()
    groups = len(distributed_c10d._world.pg_map)
    loader.load()
    assert len(distributed_c10d._world.pg_map) == groups


if __name__ == "__main__":
    main(*sys.argv[1:])
