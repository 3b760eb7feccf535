"""A rank's tensors as the parameters of a module that was made on the meta device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from shardedmodel_runtime.errors import ConfigurationError, excerpt

NAMED = 5
"""Tensors that a message names; the first few tell what was mixed up."""


def load_into(module: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Give ``module`` the tensors of ``state_dict``, without copying them.

    Parameters become the very tensors, in their dtype and on their device; so the module should be
    made on the meta device, in the rank's shapes. A parameter that is tied to another one may be
    missing where that one is there. Buffers that are not part of a state dict stay as they are.

    Example:
        >>> with torch.device("meta"):                                    # doctest: +SKIP
        ...     module = MyRankModel(config, tensor_parallel=4)
        >>> load_into(module, load(ModelLoadConfig(layout=…, …)).state_dict)   # doctest: +SKIP

    Raises:
        ConfigurationError: names or shapes differ; nothing was assigned.
    """
    wanted = module.state_dict()
    given = _with_tied(module, state_dict)
    _refuse("does not hold", [name for name in wanted if name not in given])
    _refuse("holds, and the module has not,", [name for name in given if name not in wanted])
    _refuse(
        "holds in other shapes",
        [
            f"{name} ({list(given[name].shape)} for {list(tensor.shape)})"
            for name, tensor in wanted.items()
            if given[name].shape != tensor.shape
        ],
    )
    module.load_state_dict(given, assign=True)


def _with_tied(
    module: nn.Module, state_dict: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Add parameters that are others under another name, as checkpoints store those once."""
    present: dict[int, torch.Tensor] = {}
    parameters = list(module.named_parameters(remove_duplicate=False))
    for name, parameter in parameters:
        if name in state_dict:
            present[id(parameter)] = state_dict[name]
    tied = {name: present[id(p)] for name, p in parameters if id(p) in present}
    return {**tied, **state_dict}


def _refuse(relation: str, names: Sequence[str]) -> None:
    if names:
        listed = ", ".join(excerpt(name) for name in names[:NAMED])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise ConfigurationError(
            f"module: the shard {relation} {len(names)} of its tensors: {listed}{more}; make the "
            "module for the checkpoint's architecture and this rank's share"
        )
