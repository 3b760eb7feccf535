"""A model of transformers that computes in parallel, from the shards of one rank.

Nothing here knows an architecture: what a module has to do follows from how its weight was cut, as
in an engine. Columns stay local, sums of rows are reduced and get their bias once, embeddings look
up their own rows, and the output head's logits are gathered and lose their pad.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from shardedmodel_runtime.sharding.cuts import TensorCut
from tests.integration.runtime.reference.shards import Tensors

_QUERY_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_SHARED_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_heads")
_HEAD_BIASES = ("alibi", "position_bias")
"""What a model adds to the scores of its heads, (heads, queries, keys), for all layers at once."""
_EXPERT_OUTPUTS = {"down_proj", "w2"}
"""Parameters of fused experts whose products are summed over the ranks."""
_WIDTHS = ("split_size", "all_head_size", "embed_dim", "inner_dim", "dim", "hidden_size")


class ParallelModel:
    """Makes a whole model that of one rank.

    Args:
        shards: the rank's tensors, by parameter.
        cuts: how they were cut, by parameter.
    """

    def __init__(self, shards: Tensors, cuts: dict[str, TensorCut]) -> None:
        self._shards = shards
        self._cuts = cuts
        self._rank = dist.get_rank()
        self._world = dist.get_world_size()

    def take_over(self, model: PreTrainedModel) -> None:
        """Put this rank's tensors into ``model``, and the communication that they need."""
        self._follow_ties(model)
        for name, module in model.named_modules():
            held = {
                key: self._shards[full]
                for key in module._parameters
                if (full := f"{name}.{key}".lstrip(".")) in self._shards
            }
            if "Attention" in type(module).__name__ and self._is_split_below(name):
                self._divide_heads(module)
            if hasattr(module, "ffn_hidden_size") and self._is_split_below(name):
                # By it the rows of all experts are told apart, each of which was cut by itself.
                module.ffn_hidden_size //= self._world
            if not held:
                continue
            self._install(module, name, held)

    def _follow_ties(self, model: PreTrainedModel) -> None:
        """A checkpoint holds tied parameters once; here each has the shard under its own name."""
        twins: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            twins.setdefault(id(parameter), []).append(name)
        for names in (tied for tied in twins.values() if len(tied) > 1):
            for held in [name for name in names if name in self._shards][:1]:
                self._shards |= dict.fromkeys(names, self._shards[held])
                self._cuts |= dict.fromkeys(names, self._cuts[held])

    def _is_split_below(self, name: str) -> bool:
        return any(
            full.startswith(f"{name}.") and self._dim(full) is not None for full in self._cuts
        )

    def _dim(self, full: str) -> int | None:
        axis = self._cuts[full].axis("tensor") if full in self._cuts else None
        return None if axis is None else axis.dim

    def _install(self, module: Any, name: str, held: Tensors) -> None:
        for key, tensor in held.items():
            module._parameters[key] = nn.Parameter(tensor, requires_grad=False)
        dim = self._dim(f"{name}.weight".lstrip("."))
        if isinstance(module, nn.Embedding) and dim == 0:
            self._look_up_own_rows(module)
        elif isinstance(module, Conv1D):
            module.nf = module.weight.shape[1]
            if dim == 0:
                self._sum(module)
        elif isinstance(module, nn.Linear):
            cut = self._cuts[f"{name}.weight".lstrip(".")]
            if dim == 1:
                self._sum(module)
            elif dim == 0 and cut.strategy == "vocab":
                self._gather(module, cut.shape[0])
        elif held.keys() & _EXPERT_OUTPUTS:
            if "down_proj_bias" in held and self._rank:
                module._parameters["down_proj_bias"].data.zero_()
            module.register_forward_hook(lambda _m, _i, output: self._reduced(output))

    def _divide_heads(self, module: Any) -> None:
        """Attention reshapes by its numbers of heads: those of this rank from now on."""
        for names, least in ((_QUERY_HEADS, 0), (_WIDTHS, 0), (_SHARED_HEADS, 1)):
            for name in names:
                value = getattr(module, name, None)
                if isinstance(value, int) and not isinstance(value, bool):
                    setattr(module, name, max(value // self._world, least))
        if hasattr(module, "num_key_value_groups"):
            module.config = config = copy(module.config)
            config.num_attention_heads //= self._world
            config.num_key_value_heads = max(config.num_key_value_heads // self._world, 1)
            module.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        module.register_forward_pre_hook(self._with_own_biases, with_kwargs=True)

    def _with_own_biases(
        self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Biases of scores that the model made for all heads: those of this rank's."""
        own = {
            name: bias.chunk(self._world)[self._rank]
            for name in _HEAD_BIASES
            if (bias := named.get(name)) is not None and bias.dim() == 3
        }
        return inputs, {**named, **own}

    def _reduced(self, output: torch.Tensor) -> torch.Tensor:
        output = output.contiguous()
        dist.all_reduce(output)
        return output

    def _sum(self, module: nn.Module) -> None:
        """The bias is added once: after the sum over the ranks."""
        bias = module._parameters.get("bias")
        if bias is not None:
            module._parameters["bias"] = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
        module.register_forward_hook(
            lambda _m, _i, output: self._reduced(output) + (0 if bias is None else bias)
        )

    def _look_up_own_rows(self, module: Any) -> None:
        weight = module.weight
        first = self._rank * weight.shape[0]

        def forward(tokens: torch.Tensor) -> torch.Tensor:
            own = (tokens >= first) & (tokens < first + weight.shape[0])
            found = weight[(tokens - first) * own] * own[..., None]
            return self._reduced(found) * getattr(module, "embed_scale", 1.0)

        module.forward = forward

    def _gather(self, module: nn.Module, size: int) -> None:
        def gathered(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            parts = [torch.empty_like(output) for _ in range(self._world)]
            dist.all_gather(parts, output.contiguous())
            return torch.cat(parts, dim=-1)[..., :size]

        module.register_forward_hook(gathered)
