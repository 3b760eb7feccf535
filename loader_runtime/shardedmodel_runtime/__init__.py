"""The runtime of sharded models: cut a checkpoint once, load it in parallel, exact to the bit.

Importing this package imports no torch: the public names below are looked up when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from shardedmodel_runtime.version import __version__

if TYPE_CHECKING:
    from shardedmodel_runtime.checkpoint import CheckpointMetadata
    from shardedmodel_runtime.layout.saver import CheckpointSaver
    from shardedmodel_runtime.loading.config import ModelLoadConfig
    from shardedmodel_runtime.loading.dtensors import to_dtensors
    from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader, load
    from shardedmodel_runtime.loading.modules import load_into
    from shardedmodel_runtime.rank.distributor import ModelDistributor
    from shardedmodel_runtime.sharding.distributor import WeightDistributor

__all__ = [
    "CheckpointMetadata",
    "CheckpointSaver",
    "DistributedCheckpointLoader",
    "ModelDistributor",
    "ModelLoadConfig",
    "WeightDistributor",
    "__version__",
    "load",
    "load_into",
    "to_dtensors",
]

_HOMES = {
    "CheckpointMetadata": "checkpoint",
    "CheckpointSaver": "layout.saver",
    "DistributedCheckpointLoader": "loading.loader",
    "ModelDistributor": "rank.distributor",
    "ModelLoadConfig": "loading.config",
    "WeightDistributor": "sharding.distributor",
    "load": "loading.loader",
    "load_into": "loading.modules",
    "to_dtensors": "loading.dtensors",
}


def __dir__() -> list[str]:
    """Name what is public, looked up already or not."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import the module that a public name lives in, at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
