"""What one rank holds once it has loaded, and its memory for the next load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch

from shardedmodel_runtime.errors import ConfigurationError, excerpt
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.manifest_content import LayoutObject
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
    into: LoadedShard, manifest: Manifest, rank: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Give each object of a layout, by its key, the memory that an earlier load holds it in.

    Args:
        into: the earlier load.
        manifest: of the layout that is loaded now.
        rank: whose objects are.
        device: where they go.

    Raises:
        ConfigurationError: ``into`` is another rank's or another device's, or holds objects of
            other sizes or other tensors.
    """
    items = manifest.objects_of(rank)
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
    if _said_of(into.manifest, rank) != _said_of(manifest, rank):
        for former, item in zip(into.manifest.objects_of(rank), items, strict=True):
            _check_same_tensors(_tensors_in(into.manifest, former), _tensors_in(manifest, item))
    for tensor in into.memory:
        if tensor.device != device:
            raise ConfigurationError(
                f"into: holds memory of device {tensor.device}, and the load is for {device}; "
                "load for the device that the earlier load was for, or without it"
            )
    return {item.key: tensor for item, tensor in zip(items, into.memory, strict=True)}


def _said_of(manifest: Manifest, rank: int) -> object:
    """Give what decides where a rank's tensors lie; most layouts that are cut alike say the same.

    It is compared in milliseconds, where hundreds of thousands of tensors take a second.
    """
    items = [(item.ranks, item.data_start, item.tensors) for item in manifest.objects_of(rank)]
    return manifest.parallelism, manifest.cuts, manifest.entries, items


_TensorPlace = tuple[str, str, tuple[int, ...], int]
"""Name, dtype and shape of a tensor, and its first byte in its object."""


def _tensors_in(manifest: Manifest, item: LayoutObject) -> list[_TensorPlace]:
    """Say which bytes of an object are which tensor."""
    return [
        (placed.name, placed.cut.dtype, placed.piece.shape, item.data_start + placed.start)
        for placed in manifest.placed(item)
    ]


def _check_same_tensors(held: Sequence[_TensorPlace], wanted: Sequence[_TensorPlace]) -> None:
    """See that what a model holds stays what it takes it for: its views do not change.

    Raises:
        ConfigurationError: a tensor would lie where another one is.
    """
    if held == wanted:
        return
    for one, other in zip_longest(held, wanted):
        if one != other:
            raise ConfigurationError(
                f"into: holds {_described(one)} where the layout has {_described(other)}; use "
                "memory of a layout that is cut alike, or load without it"
            )


def _described(place: _TensorPlace | None) -> str:
    if place is None:
        return "nothing"
    name, dtype, shape, start = place
    return f"{excerpt(name)!r} ({dtype} {list(shape)} at byte {start})"
