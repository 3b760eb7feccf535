"""Pipeline stages: which of them hold a tensor.

Layers are numbered in names (``model.layers.7.``); a run of neighbours goes to each stage, so that
the largest stage is as small as can be. What comes before the layers (embeddings, the towers and
projectors of other modalities) is on the first stage, what comes after them (final norm, head,
pooler) on the last. An encoder's layers come before the decoder's. What is neither, every stage
has. Tied embeddings are on the first and on the last stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shardedmodel_runtime.checkpoint import SourceTensor
from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.formats.hf import ModelConfig
from shardedmodel_runtime.sharding.cuts import Range
from shardedmodel_runtime.sharding.names import PerAlike

_LAYER = re.compile(r"^([^\d].*?)\.(\d+)\.")
"""The first number of a name is the layer's; experts are numbered inside layers."""


def _words(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words))


_TOWER = _words("vision", "visual", "audio", "image", "speech")
"""Stacks of other modalities, whose output enters the first layer."""
_LAST = _words(
    r"(^|\.)(lm_head|embed_out|output_layer|score|cls|qa_outputs|project_out)\.",
    "classifi",
    "predictions",
    "pooler",
    "logits",
)
_FIRST = _words(
    "embed",
    r"(^|\.)(wte|wpe|shared|project_in)\.",
    "projector",
    "connector",
    "qformer",
    _TOWER.pattern,
)
_NORM = _words("norm", r"(^|\.)ln_f\.")
_INPUT_EMBEDDING = _words(
    r"(^|\.)(embed_tokens|wte|word_embeddings|shared|embed_in|tok_embeddings)\.weight$"
)
_EVERY_LAYER_USES = _words("relative_attention_bias")
"""T5 keeps in its first layer what all layers of the stack use."""


@dataclass(frozen=True, slots=True)
class _Stack:
    """Layers of one prefix, and the bytes of each."""

    prefix: str
    layers: Sequence[int]
    """Their numbers, ascending."""
    sizes: Sequence[int]


class StagePlanner:
    """Decides for each tensor of a checkpoint which stages hold it.

    Args:
        tensors: of the checkpoint.
        config: of the model.
        degree: number of stages.

    Raises:
        InvalidSharding: there are more stages than layers.
    """

    def __init__(
        self, tensors: Mapping[str, SourceTensor], config: ModelConfig, degree: int
    ) -> None:
        self._degree = degree
        self._has_encoder = False
        self._stage_of: dict[tuple[str, int], int] = {}
        if degree == 1:
            return
        self._tied = _tied_embeddings(tensors, config)
        self._layers_of = _LayerNames()
        stacks = _main_stacks(tensors, config, self._layers_of)
        self._has_encoder = len(stacks) > 1
        self._stacks = {stack.prefix: stack for stack in stacks}
        layers = [(stack.prefix, layer) for stack in stacks for layer in stack.layers]
        if degree > len(layers):
            raise InvalidSharding(
                f"parallelism.pipeline: {degree} stages cannot share {len(layers)} layers; use at "
                f"most {max(len(layers), 1)}"
            )
        sizes = [size for stack in stacks for size in stack.sizes]
        outside = {"first": 0, "last": 0, "": 0}
        for name, tensor in tensors.items():
            if self._layer(name) is None:
                outside[self._outside(name)] += tensor.nbytes
        outside["last"] += sum(tensors[name].nbytes for name in self._tied)
        stages = balance(sizes, degree, outside["first"], outside["last"])
        self._stage_of = dict(zip(layers, stages, strict=True))

    def stages(self, name: str) -> tuple[int, ...] | None:
        """The stages that hold a tensor, ascending; None: all of them."""
        if self._degree == 1:
            return None
        found = sorted(self._find(name))
        return tuple(found) if len(found) < self._degree else None

    def _find(self, name: str) -> set[int]:
        layer = self._layer(name)
        if layer is not None:
            if _EVERY_LAYER_USES.search(name):
                return self._of_stack(layer[0])
            return {self._stage_of[layer]}
        where, last = self._outside(name), self._degree - 1
        if not where:
            return set(range(self._degree))
        if not self._has_encoder:
            found = {0 if where == "first" else last}
        else:
            found = self._of_either(name, where)
        return found | ({last} if name in self._tied else set())

    def _of_either(self, name: str, where: str) -> set[int]:
        """Where an encoder-decoder needs what is outside its layers."""
        encoder, decoder = (self._of_stack(prefix) for prefix in self._stacks)
        if where == "last":
            ends_encoder = "encoder" in name and "decoder" not in name
            return {max(encoder)} if ends_encoder else {self._degree - 1}
        if "decoder" in name:
            return {min(decoder)}
        return {0} if "encoder" in name else {0, min(decoder)}

    def _outside(self, name: str) -> str:
        """Whether a tensor outside the layers comes before (``first``) or after them (``last``)."""
        if _LAST.search(name):
            return "last"
        if _FIRST.search(name):
            return "first"
        return "last" if self._is_final_norm(name) else ""

    def _is_final_norm(self, name: str) -> bool:
        """Whether it is a norm beside the layers, or beside what they lie in."""
        module = name.rpartition(".")[0]
        beside = module.rpartition(".")[0]
        return bool(_NORM.search(f"{module}.")) and any(
            not beside or prefix.startswith(f"{beside}.") for prefix in self._stacks
        )

    def _layer(self, name: str) -> tuple[str, int] | None:
        layer = self._layers_of.layer(name)
        return layer if layer and layer[0] in self._stacks else None

    def _of_stack(self, prefix: str) -> set[int]:
        return {stage for (stack, _), stage in self._stage_of.items() if stack == prefix}


def balance(sizes: Sequence[int], degree: int, first: int = 0, last: int = 0) -> list[int]:
    """Share layers out among stages, neighbours together, so that the largest is smallest.

    Args:
        sizes: bytes of each layer.
        degree: number of stages, each of which gets a layer at least.
        first: bytes that the first stage has besides its layers.
        last: the same of the last stage.

    Returns:
        The stage of each layer, ascending.
    """
    low, high = 0, sum(sizes) + first + last
    while low < high:
        middle = (low + high) // 2
        if _fill(sizes, degree, first, last, middle) is None:
            low = middle + 1
        else:
            high = middle
    stages = _fill(sizes, degree, first, last, low)
    assert stages is not None, "everything fits a stage as large as everything"
    return stages


def _fill(sizes: Sequence[int], degree: int, first: int, last: int, limit: int) -> list[int] | None:
    """Fill stages of at most ``limit`` bytes one after the other; None where that is too small."""
    stages: list[int] = []
    stage, filled, layers_here = 0, first, 0
    for index, size in enumerate(sizes):
        others_need_the_rest = len(sizes) - index <= degree - 1 - stage
        if layers_here and (others_need_the_rest or filled + size > limit):
            stage, filled, layers_here = stage + 1, 0, 0
        if stage == degree or filled + size > limit:
            return None
        stages.append(stage)
        filled += size
        layers_here += 1
    return stages if stage == degree - 1 and filled + last <= limit else None


def _tied_embeddings(tensors: Mapping[str, SourceTensor], config: ModelConfig) -> set[str]:
    """The input embeddings that are the output head as well: tied, and no head beside them."""
    embeddings = {name for name in tensors if _INPUT_EMBEDDING.search(name)}
    rows = {tensors[name].shape[:1] for name in embeddings}
    has_head = any(
        tensor.shape[:1] in rows and len(tensor.shape) == 2 and _LAST.search(name)
        for name, tensor in tensors.items()
    )
    return embeddings if config.tie_word_embeddings and not has_head else set()


class _LayerNames:
    """Finds the layer in a name."""

    def __init__(self) -> None:
        self._spans = PerAlike(self._span)

    def layer(self, name: str) -> tuple[str, int] | None:
        """The stack's prefix and the layer's number, where the name has one."""
        span = self._spans(name)
        return (name[: span[0] - 1], int(name[slice(*span)])) if span else None

    @staticmethod
    def _span(name: str) -> Range | None:
        match = _LAYER.match(name)
        return match.span(2) if match else None


def _main_stacks(
    tensors: Mapping[str, SourceTensor], config: ModelConfig, names: _LayerNames
) -> list[_Stack]:
    """The layers that are shared out: an encoder's and a decoder's, or the largest stack's."""
    sizes: dict[str, dict[int, int]] = {}
    for name, tensor in tensors.items():
        layer = names.layer(name)
        if layer:
            layers = sizes.setdefault(layer[0], {})
            layers[layer[1]] = layers.get(layer[1], 0) + tensor.nbytes
    stacks = [
        _Stack(prefix, sorted(layers), [layers[number] for number in sorted(layers)])
        for prefix, layers in sizes.items()
    ]
    stacks.sort(key=lambda stack: -sum(stack.sizes))
    stacks = [stack for stack in stacks if not _TOWER.search(stack.prefix)] or stacks
    decoders = [stack for stack in stacks if "decoder" in stack.prefix]
    encoders = [stack for stack in stacks if "encoder" in stack.prefix and stack not in decoders]
    if config.is_encoder_decoder and encoders and decoders:
        return [encoders[0], decoders[0]]
    return stacks[:1]
