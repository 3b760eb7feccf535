"""From the parameters of a model in memory to the tensors of its checkpoint on disk.

``transformers`` renames and fuses tensors while it loads: the experts of a layer become one
parameter. Here its own conversions are run backwards on tensors without data, which gives
the names that ``save_pretrained`` writes.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    apply_converters,
    apply_renamings,
)
from transformers.distributed.parallel_utils import replace_layer_number_by_wildcard


@dataclass(frozen=True)
class Conversion:
    """Parameters in memory, the tensors on disk that they are made of, and how.

    Args:
        parameters: names in memory, with ``*`` for the numbers of layers.
        tensors: names on disk, with ``*`` for the numbers of layers and experts.
        shapes: of ``tensors``.
        operations: what is done from memory to disk, by the names of transformers' classes.
    """

    parameters: tuple[str, ...]
    tensors: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...]


def conversions(model: PreTrainedModel) -> list[Conversion]:
    """How each kind of parameter of ``model`` lies on disk; layers that repeat are left out."""
    reverse = [
        conversion.reverse_transform()
        for conversion in reversed(get_model_conversion_mapping(model, add_legacy=False))
        # It adds a prefix only to checkpoints that had one, which rules do not depend on.
        if not isinstance(conversion, PrefixChange)
    ]
    renamings = [entry for entry in reverse if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in reverse if isinstance(entry, WeightConverter)]
    transforms, origins = _collected(_one_of_each_kind(model), converters, renamings)
    return [
        _converted(model, first, transform, origins[first], renamings)
        for first, transform in transforms.items()
    ]


def _one_of_each_kind(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    kinds: dict[str, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        kinds.setdefault(replace_layer_number_by_wildcard(name), (name, tensor))
    return dict(kinds.values())


def _collected(
    state: dict[str, torch.Tensor],
    converters: list[WeightConverter],
    renamings: list[WeightRenaming],
) -> tuple[dict[str, WeightTransform], dict[str, list[str]]]:
    by_pattern = {
        pattern: converter for converter in converters for pattern in converter.source_patterns
    }
    transforms: dict[str, WeightTransform] = {}
    origins: dict[str, list[str]] = {}
    for name, tensor in state.items():
        renamed, pattern = apply_converters(name, converters)
        if pattern is not None:
            transform = transforms.setdefault(renamed, deepcopy(by_pattern[pattern]))
        else:
            pattern, renamed = name, apply_renamings(name, renamings)
            transform = transforms.setdefault(renamed, WeightRenaming(name, renamed))
        transform.add_tensor(renamed, name, pattern, tensor)
        origins.setdefault(renamed, []).append(name)
    return transforms, origins


def _converted(
    model: PreTrainedModel,
    first: str,
    transform: WeightTransform,
    origin: list[str],
    renamings: list[WeightRenaming],
) -> Conversion:
    shapes: dict[str, tuple[int, ...]] = {}
    is_converter = isinstance(transform, WeightConverter)
    for name, value in transform.convert(first, model=model, config=model.config).items():
        tensor = value[0] if isinstance(value, list) else value
        on_disk = apply_renamings(name, renamings) if is_converter else name
        shapes.setdefault(replace_layer_number_by_wildcard(on_disk), tuple(tensor.shape))
    return Conversion(
        parameters=tuple(dict.fromkeys(map(replace_layer_number_by_wildcard, origin))),
        tensors=tuple(shapes),
        shapes=tuple(shapes.values()),
        operations=tuple(type(op).__name__ for op in getattr(transform, "operations", ())),
    )
