"""The user's own function, called with what its rank holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch

from shardedmodel_runtime.errors import ConfigurationError, excerpt
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.parallelism import RankCoordinate


@dataclass(frozen=True, slots=True)
class RankContext:
    """What an entrypoint gets: everything this rank has.

    The process group is torch's default one: ``torch.distributed.all_reduce(tensor)`` just works.

    Args:
        state_dict: each tensor in this rank's shape (``LoadedShard.state_dict``).
        manifest: the layout's manifest.
        coordinate: the rank, and its place along each kind of parallelism.
        world_size: ranks of the group.
        device: where the tensors are.
    """

    state_dict: dict[str, torch.Tensor]
    manifest: Manifest
    coordinate: RankCoordinate
    world_size: int
    device: torch.device


Entrypoint = Callable[[RankContext], object]


def resolve(name: str) -> Entrypoint:
    """Import ``package.module:function``.

    Raises:
        ConfigurationError: there is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(import_module(module_name), function_name)
    except ImportError as error:
        raise ConfigurationError(
            f"workers.entrypoint: {excerpt(name)!r}: cannot import {excerpt(module_name)!r} "
            f"({excerpt(str(error))}); use an image that has it"
        ) from error
    except AttributeError as error:
        raise ConfigurationError(
            f"workers.entrypoint: module {excerpt(module_name)!r} has no "
            f"{excerpt(function_name)!r}; use package.module:function"
        ) from error
    if not callable(function):
        raise ConfigurationError(f"workers.entrypoint: {excerpt(name)!r} is not a function")
    return function  # type: ignore[no-any-return]
