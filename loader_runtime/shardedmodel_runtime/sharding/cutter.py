"""Cuts the tensors of one checkpoint, each by its rule; those that are cut alike share a cut."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import replace

from shardedmodel_runtime.checkpoint import CheckpointMetadata, SourceTensor
from shardedmodel_runtime.errors import InvalidSharding, excerpt
from shardedmodel_runtime.formats.dtypes import CASTABLE
from shardedmodel_runtime.formats.hf import ModelConfig
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.cuts import REPLICATE, AxisCut, TensorCut
from shardedmodel_runtime.sharding.experts import (
    EXPERTS,
    Expert,
    ExpertCut,
    cut_fused,
    cut_numbered,
    numbered_experts,
)
from shardedmodel_runtime.sharding.heads import heads, packed
from shardedmodel_runtime.sharding.microscaled import cut_microscaled, fused_weight_of
from shardedmodel_runtime.sharding.names import PerAlike
from shardedmodel_runtime.sharding.quantised import Module, weight_of
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.sharding.stages import StagePlanner
from shardedmodel_runtime.sharding.strategies import (
    Strategy,
    Uncut,
    column,
    replicate,
    row,
    vocab,
)

_OVER_TENSOR: Mapping[str, Strategy] = {
    "column": column,
    "row": row,
    "heads": heads,
    "packed": packed,
    "vocab": vocab,
    REPLICATE: replicate,
}
INNER_STRATEGIES = ("column", "row", "packed", REPLICATE)
"""Strategies inside an expert."""
STRATEGIES = (*_OVER_TENSOR, EXPERTS)
"""Every strategy by the name it has in rules."""


class CheckpointCutter:
    """Cuts the tensors of one checkpoint.

    Args:
        metadata: of the checkpoint.
        parallelism: the degrees.
        cast_to: dtype of castable tensors in the layout; None: their own.

    Raises:
        InvalidSharding: there are more pipeline stages than layers.
    """

    def __init__(
        self, metadata: CheckpointMetadata, parallelism: Parallelism, cast_to: str | None
    ) -> None:
        self._tensors = metadata.tensors
        self._config = metadata.config
        self._layers = {
            own.layer: replace(
                metadata.config,
                attention_heads=own.attention_heads,
                key_value_heads=own.key_value_heads,
                head_dim=own.head_dim,
            )
            for own in metadata.config.layers
        }
        self._outputs: dict[Hashable, int] = {}
        self._parallelism = parallelism
        self._cast_to = cast_to
        self._stages = StagePlanner(metadata.tensors, metadata.config, parallelism.pipeline)
        self._experts = numbered_experts(metadata.tensors)
        self._kind = PerAlike(self._kind_of)
        self._known: dict[Hashable, TensorCut] = {}

    def cut(self, name: str, rule: Rule) -> TensorCut:
        """Cut one tensor by its rule.

        Raises:
            InvalidSharding: the rule does not fit the tensor.
        """
        tensor = self._tensors[name]
        stages = self._stages.stages(name)
        expert = self._experts.get(name) if rule.strategy == EXPERTS else None
        home = expert.owner_of(self._parallelism) if expert else None
        config = self._config_of(name)
        alike = (
            id(rule),
            tensor.dtype,
            tensor.shape,
            stages,
            home,
            self._context(name),
            id(config),
        )
        known = self._known.get(alike)
        if known is None:
            known = self._known[alike] = self._cut(tensor, rule, config, stages, expert)
        return known

    def _config_of(self, name: str) -> ModelConfig:
        """The configuration with the numbers of heads of a tensor's layer."""
        layer = _LAYER.search(name) if self._layers else None
        return self._layers.get(int(layer[1]), self._config) if layer else self._config

    def leave_whole(self, name: str, cuts: Mapping[str, TensorCut]) -> TensorCut:
        """Replicate a tensor that no rule names, unless it belongs to one that is cut.

        Args:
            name: of the tensor.
            cuts: of the tensors that rules name.

        Raises:
            InvalidSharding: it lies beside a weight that is cut; whether it goes with it is not
                known.
        """
        for weight in _owners(name):
            if weight in cuts and (cuts[weight].axes or cuts[weight].expert is not None):
                raise InvalidSharding(
                    f"tensor {excerpt(name)!r}: no rule names it, and it seems to belong to "
                    f"{excerpt(weight)!r}, which is cut by {cuts[weight].strategy!r}; write a rule "
                    "that says whether it is cut with it ('replicate' if not)"
                )
        return self._whole(self._tensors[name], REPLICATE, self._stages.stages(name))

    def _context(self, name: str) -> Hashable:
        """What a cut depends on besides the tensor itself: the end of its name, and its weight."""
        kind, is_companion = self._kind(name)
        if not is_companion:
            return kind
        module = name[: -len(kind)]
        beside = (self._tensors.get(module + each) for each in _PACKED)
        return kind, next((tensor.shape for tensor in beside if tensor), None)

    @staticmethod
    def _kind_of(name: str) -> tuple[str, bool]:
        return name.rpartition(".")[2], weight_of(name) is not None

    def _cut(
        self,
        tensor: SourceTensor,
        rule: Rule,
        config: ModelConfig,
        stages: tuple[int, ...] | None,
        expert: Expert | None,
    ) -> TensorCut:
        whole = self._whole(tensor, rule.strategy, stages)
        uncut = Uncut(
            tensor.name,
            whole.dtype,
            tensor.shape,
            self._parallelism.tensor,
            config,
            rule,
        )
        if rule.strategy == "heads":
            self._refuse_untold_heads(uncut)
        found = self._axes(uncut, rule, expert)
        is_bias = tensor.name.endswith("bias")
        return replace(
            whole,
            axes=found.axes,
            expert=found.owner,
            added_once=is_bias and (rule.inner or rule.strategy) == "row",
        )

    def _refuse_untold_heads(self, uncut: Uncut) -> None:
        """See that the configuration tells how many heads a layer has, where layers differ.

        Raises:
            InvalidSharding: layers of as many heads have different numbers of outputs, or a key
                is not as large as its layer's heads are.
        """
        size = uncut.shape[uncut.output_dim] if uncut.shape else 0
        everywhere = _NUMBER.sub("0", uncut.name), id(uncut.config)
        expected = self._outputs.setdefault(everywhere, size)
        is_key = uncut.rule.parts == ("key",) and uncut.name.endswith(".weight")
        if is_key and self._layers:
            expected = uncut.config.key_value_heads * uncut.config.head_dim
        if size != expected:
            raise uncut.refuse(
                f"expects {expected} outputs, from other layers and the heads in config.json, "
                "which does not tell of this layer's (per_layer_config); use 'replicate'"
            )

    def _axes(self, uncut: Uncut, rule: Rule, expert: Expert | None) -> ExpertCut:
        if rule.strategy != EXPERTS:
            axis = self._inside(uncut, rule.strategy)
            return ExpertCut((axis,) if axis else ())
        inner = None
        if rule.inner:

            def inner(one: Uncut) -> AxisCut | None:
                return self._inside(one, rule.inner)

        if expert is None:
            return cut_fused(uncut, self._parallelism, inner)
        return cut_numbered(uncut, expert, self._parallelism, inner)

    def _inside(self, uncut: Uncut, strategy: str) -> AxisCut | None:
        """Cut over tensor ranks, a companion of a weight as its weight."""
        weight = weight_of(uncut.name)
        is_microscaled = uncut.rule.strategy == EXPERTS and fused_weight_of(uncut.name) is not None
        if strategy == REPLICATE or (weight is None and not is_microscaled):
            return _OVER_TENSOR[strategy](uncut)

        def cut_weight(one: Uncut) -> AxisCut | None:
            # The weight is told of as (out, in), however it is packed.
            return _OVER_TENSOR[strategy](replace(one, rule=replace(one.rule, transposed=False)))

        if weight is None:
            return cut_microscaled(uncut, self._tensors, self._config.quantisation, cut_weight)
        module = Module(weight.removesuffix(".weight"), self._tensors, self._config.quantisation)
        return module.cut(uncut, cut_weight)

    def _whole(
        self, tensor: SourceTensor, strategy: str, stages: tuple[int, ...] | None
    ) -> TensorCut:
        dtype, cast_from = tensor.dtype, None
        if self._cast_to and dtype in CASTABLE and dtype != self._cast_to:
            dtype, cast_from = self._cast_to, dtype
        return TensorCut(dtype, tensor.shape, strategy, cast_from=cast_from, stages=stages)


_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,5})\.")
_NUMBER = re.compile(r"\d+")

_PACKED = ("qweight", "weight_packed", "weight")
"""Tensors whose shape says what a companion's indices stand for."""


def _owners(name: str) -> list[str]:
    """Names of the weights that a tensor could belong to, by its own name."""
    module, _, last = name.rpartition(".")
    prefix = f"{module}." if module else ""
    words = last.split("_")
    return [
        f"{prefix}weight",
        module,
        *(prefix + "_".join(words[:count]) for count in range(1, len(words))),
    ]
