"""One rank of a group that loads its shard, flips every bit of its weights, and saves it.

Started by ``test_saving.py``: ``saving_rank.py RANK WORLD_SIZE FILE``, where ``FILE`` is what the
ranks find each other by. Each line on stdin is a task (layout, new layout, fault), each line on
stdout its outcome (exit code, words), so that one start of torch serves many tests.
"""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist

from shardedmodel_runtime.errors import ShardedModelError, Unavailable
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader
from shardedmodel_runtime.rank.saving import save_from_ranks
from shardedmodel_runtime.storage.local import LocalStore, LocalWriter
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.uri import parse_uri


class BrokenStore(LocalStore):
    """A storage that takes nothing."""

    def open_writer(self, key: str, size: int, part_bytes: int) -> LocalWriter:
        """Refuse."""
        raise Unavailable("the storage is gone")


def flip(shard: dict[str, torch.Tensor], manifest: Manifest, rank: int) -> None:
    """Flip every bit of every weight; pad stays zero."""
    for item in manifest.objects_of(rank):
        for placed in manifest.placed(item):
            tensor = shard[placed.name]
            for part in placed.piece.slices:
                tensor = tensor.narrow(part.dim, 0, part.rows)
            bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
            tensor.view(bits).bitwise_not_()


def spoil(shard: dict[str, torch.Tensor], fault: str) -> None:
    """Make the state one that cannot be saved."""
    name = next(name for name, tensor in shard.items() if tensor.dim() == 2)
    if fault == "missing":
        del shard[name]
    elif fault == "unknown":
        shard["of.nobody"] = torch.zeros(1)
    elif fault == "shape":
        shard[name] = shard[name][:-1]
    elif fault == "pad":
        shard["model.embed_tokens.weight"].fill_(1)
    elif fault == "order":
        for key, tensor in shard.items():
            if tensor.dim() == 2:
                shard[key] = tensor.t().contiguous().t()


def save(rank: int, size: int, layout: str, new: str, fault: str) -> tuple[int, str]:
    """Load, flip and save; gives the exit code that the outcome has, and words about it."""
    config = ModelLoadConfig(layout=layout, world_size=size, rank=rank, device="cpu")
    shard = DistributedCheckpointLoader(config).load()
    flip(shard.state_dict, shard.manifest, rank)
    target = open_store(new)
    if fault == "order" or rank == size - 1:
        spoil(shard.state_dict, fault)
        if fault == "storage":
            target = BrokenStore(parse_uri(new))
    try:
        manifest = save_from_ranks(shard.state_dict, target, open_store(layout), shard.manifest)
    except ShardedModelError as error:
        return error.exit_code, f"{error.reason}: {error.message}"
    return 0, manifest.layout_hash


def main() -> int:
    """Join the group, and save as often as a line on stdin asks for it."""
    rank, size, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    for line in sys.stdin:
        print(json.dumps(save(rank, size, *json.loads(line))), flush=True)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
