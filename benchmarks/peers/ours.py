"""This project's loader, in three ways."""

from __future__ import annotations

from benchmarks.peers.task import Load, Task


def ours(task: Task, verify: bool = True) -> Load:
    """This project's loader."""
    from shardedmodel_runtime.loading.config import ModelLoadConfig
    from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader

    config = ModelLoadConfig(
        layout=task.layout, endpoint_url=task.endpoint_url, device="cpu", verify=verify
    )
    loader = DistributedCheckpointLoader(config)
    return lambda: loader.load().state_dict


def ours_unverified(task: Task) -> Load:
    """This project's loader, without checking blocks: what verification costs."""
    return ours(task, verify=False)


def ours_again(task: Task) -> Load:
    """This project's loader, into the memory of an earlier load: pages are there, as the limit's.

    The earlier load is not counted.
    """
    from shardedmodel_runtime.loading.config import ModelLoadConfig
    from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader

    config = ModelLoadConfig(
        layout=task.layout, endpoint_url=task.endpoint_url, device="cpu", map_files=False
    )
    held = DistributedCheckpointLoader(config).load()
    loader = DistributedCheckpointLoader(config)
    return lambda: loader.load(into=held).state_dict
