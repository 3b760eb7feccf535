"""Cuts the tensors of one checkpoint, each by its rule; those that are cut alike share a cut."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

from shardedmodel_runtime.checkpoint import CheckpointMetadata, SourceTensor
from shardedmodel_runtime.errors import InvalidSharding, excerpt
from shardedmodel_runtime.formats.dtypes import CASTABLE
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
        alike = (id(rule), tensor.dtype, tensor.shape, stages, home, self._context(name))
        known = self._known.get(alike)
        if known is None:
            known = self._known[alike] = self._cut(tensor, rule, stages, expert)
        return known

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
        stages: tuple[int, ...] | None,
        expert: Expert | None,
    ) -> TensorCut:
        whole = self._whole(tensor, rule.strategy, stages)
        uncut = Uncut(
            tensor.name,
            whole.dtype,
            tensor.shape,
            self._parallelism.tensor,
            self._config,
            rule,
        )
        found = self._axes(uncut, rule, expert)
        is_bias = tensor.name.endswith("bias")
        return replace(
            whole,
            axes=found.axes,
            expert=found.owner,
            added_once=is_bias and (rule.inner or rule.strategy) == "row",
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
        if weight is None or strategy == REPLICATE:
            return _OVER_TENSOR[strategy](uncut)
        module = Module(weight.removesuffix(".weight"), self._tensors, self._config.quantisation)

        def cut_weight(one: Uncut) -> AxisCut | None:
            # The weight is told of as (out, in), however it is packed.
            return _OVER_TENSOR[strategy](replace(one, rule=replace(one.rule, transposed=False)))

        return module.cut(uncut, cut_weight)

    def _whole(
        self, tensor: SourceTensor, strategy: str, stages: tuple[int, ...] | None
    ) -> TensorCut:
        dtype, cast_from = tensor.dtype, None
        if self._cast_to and dtype in CASTABLE and dtype != self._cast_to:
            dtype, cast_from = self._cast_to, dtype
        return TensorCut(dtype, tensor.shape, strategy, cast_from=cast_from, stages=stages)


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
