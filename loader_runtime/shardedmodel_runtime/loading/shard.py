"""What one rank holds once it has loaded, and its memory for the next load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.manifest_content import LayoutObject
from shardedmodel_runtime.loading.landings import await_landed
from shardedmodel_runtime.loading.load_report import LoadReport


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """What one rank holds.

    Args:
        state_dict: each tensor of the model in this rank's shape, as a view of its object's
            memory; tensors of sub-byte dtypes are their raw bytes (one-dimensional ``uint8``).
        memory: the objects' bytes, headers included, that the tensors are views of:
            one-dimensional ``uint8`` each.
        manifest: the layout's manifest.
        rank: the rank that this is.
        report: what the load took.
    """

    state_dict: dict[str, torch.Tensor]
    memory: list[torch.Tensor]
    manifest: Manifest
    rank: int
    report: LoadReport


def memory_of(
    into: LoadedShard, items: Sequence[LayoutObject], rank: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Give each object of a layout, by its key, the memory that an earlier load holds it in.

    Args:
        into: the earlier load.
        items: the objects that are loaded now.
        rank: whose they are.
        device: where they go.

    Raises:
        ConfigurationError: ``into`` is another rank's or another device's, or holds objects of
            other sizes.
        Unavailable: a read of a load that failed may still write into it.
    """
    if into.rank != rank:
        raise ConfigurationError(
            f"into: holds the shard of rank {into.rank}, and rank {rank} is loaded; "
            "use what this rank loaded before"
        )
    wanted, held = [item.bytes for item in items], [tensor.numel() for tensor in into.memory]
    if wanted != held:
        raise ConfigurationError(
            f"into: holds objects of {held} bytes, and the layout has {wanted} for rank "
            f"{into.rank}; use memory of a layout that is cut alike, or load without it"
        )
    for tensor in into.memory:
        if tensor.device != device:
            raise ConfigurationError(
                f"into: holds memory of device {tensor.device}, and the load is for {device}; "
                "load for the device that the earlier load was for, or without it"
            )
        await_landed(tensor)
    return {item.key: tensor for item, tensor in zip(items, into.memory, strict=True)}
