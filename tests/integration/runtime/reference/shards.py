"""Random checkpoints as transformers saves them, and their layouts as the Job makes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.layout.manifest import read_manifest
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import TensorCut
from shardedmodel_runtime.storage.opening import open_store
from tests.integration.runtime.reference.cases import Case
from tools.architectures.checkpoint_names import conversions
from tools.architectures.instances import model_class

Tensors = dict[str, torch.Tensor]

SPREAD = 0.2
"""Standard deviation of random weights: large enough that a wrong cut moves the logits far."""

_EXPERT = re.compile(r"(?P<experts>.*\.experts)\.\d+\.(?P<projection>\w+)_proj\.weight")


def class_of(model_type: str) -> Any:
    """The class of transformers for a type that has one."""
    found = model_class(model_type)
    assert found is not None
    return found


def save_checkpoint(case: Case, folder: Path) -> None:
    """Save a random model of a case in its checkpoint folder."""
    torch.manual_seed(0)
    model = class_of(case.model_type)(CONFIG_MAPPING[case.model_type](**case.config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=SPREAD)
    model.save_pretrained(folder)


def load_whole(folder: Path) -> PreTrainedModel:
    """The unsharded model of a checkpoint folder."""
    model_type = AutoConfig.from_pretrained(folder).model_type
    return class_of(model_type).from_pretrained(folder, dtype=torch.float32).eval()


def shard(folder: Path, world: int) -> str:
    """Make the layout of a checkpoint for ``world`` tensor ranks; returns its URI."""
    storage = folder.parent / "layouts"
    storage.mkdir(exist_ok=True)
    request = ShardRequest(folder.as_uri(), storage.as_uri(), Parallelism(world))
    return ShardJob(request, open_store, open_store).run().manifest_uri.rpartition("/")[0]


def read_shards(layout_uri: str, rank: int) -> tuple[Tensors, dict[str, TensorCut]]:
    """What a rank loads, by the checkpoint's names, and how each tensor was cut."""
    with open_store(layout_uri) as store:
        manifest = read_manifest(store)
    folder = Path(layout_uri.removeprefix("file://"))
    held: Tensors = {}
    for item in manifest.objects_of(rank):
        held |= load_file(folder / item.key)
    return held, dict(manifest.tensors)


class Names:
    """From the names on disk to those of a model in memory."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._patterns = [
            (re.compile(re.escape(conversion.tensors[0]).replace(r"\*", r"(\d+)")), conversion)
            for conversion in conversions(model)
            if not conversion.operations
        ]

    def of(self, name: str) -> str:
        """The parameter of a tensor that is only renamed while it is loaded, else its own name."""
        for pattern, conversion in self._patterns:
            if match := pattern.fullmatch(name):
                numbers = iter(match.groups())
                return "".join(
                    next(numbers) if part == "*" else part
                    for part in re.split(r"(\*)", conversion.parameters[0])
                )
        return name

    def fused(self, held: Tensors) -> Tensors:
        """Tensors by parameter; one tensor per expert becomes one: stacked, gate before up."""
        renamed = {self.of(name): tensor for name, tensor in held.items()}
        experts: dict[str, dict[str, list[torch.Tensor]]] = {}
        for name in list(renamed):
            if match := _EXPERT.fullmatch(name):
                projections = experts.setdefault(match["experts"], {})
                projections.setdefault(match["projection"], []).append(renamed.pop(name))
        for name, projections in experts.items():
            stacked = {kind: torch.stack(tensors) for kind, tensors in projections.items()}
            renamed[f"{name}.down_proj"] = stacked["down"]
            renamed[f"{name}.gate_up_proj"] = torch.cat([stacked["gate"], stacked["up"]], dim=1)
        return renamed
