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
    made on the meta device, in the rank's shapes. Parameters that are tied stay so, and may be
    there under one of their names alone. Buffers that are not part of a state dict stay as they
    are: a module that computes them has to do so again, as they would stay on the meta device.

    Example:
        >>> with torch.device("meta"):                                    # doctest: +SKIP
        ...     module = MyRankModel(config, tensor_parallel=4)
        >>> load_into(module, load(ModelLoadConfig(layout=…, …)).state_dict)   # doctest: +SKIP

    Raises:
        ConfigurationError: names or shapes differ, a parameter with gradients would hold integers,
            or tied ones different values; nothing was assigned.
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
    _refuse(
        "holds in dtypes without gradients",
        [
            f"{name} ({given[name].dtype})"
            for name, parameter in module.named_parameters(remove_duplicate=False)
            if parameter.requires_grad
            and not (given[name].is_floating_point() or given[name].is_complex())
        ],
    )
    tied = _tied_names(module)
    module.load_state_dict(given, assign=True)
    for names in tied:
        _tie(module, names)


def _with_tied(
    module: nn.Module, state_dict: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Give tied parameters one tensor under all their names; checkpoints store it under one."""
    given = dict(state_dict)
    for names in _tied_names(module):
        present = [name for name in names if name in state_dict]
        differing = [
            name for name in present[1:] if not _equal(state_dict[name], state_dict[present[0]])
        ]
        _refuse(f"holds as different from {present[:1]}, to which they are tied,", differing)
        given |= {name: state_dict[present[0]] for name in names if present}
    return given


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


def _tied_names(module: nn.Module) -> list[list[str]]:
    """Give the names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _tie(module: nn.Module, names: Sequence[str]) -> None:
    """Make one parameter of those that were assigned one by one."""
    first = module.get_parameter(names[0])
    for name in names[1:]:
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, first)


def _refuse(relation: str, names: Sequence[str]) -> None:
    if names:
        listed = ", ".join(excerpt(name) for name in names[:NAMED])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise ConfigurationError(
            f"module: the shard {relation} {len(names)} of its tensors: {listed}{more}; make the "
            "module for the checkpoint's architecture and this rank's share"
        )
