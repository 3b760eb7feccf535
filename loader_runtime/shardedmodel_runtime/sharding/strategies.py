"""The strategies: from a tensor's shape and the number of ranks to the ranges of each rank.

``column`` and ``row`` are Megatron-LM's (Shoeybi et al., 2019): the output dimension of a weight is
0, its input dimension the last; of a transposed weight (GPT-2's ``Conv1D``) the other way round.
``heads`` cuts like ``column`` but never through a head, ``packed`` like ``column`` each of several
tensors that lie in one. ``vocab`` pads the vocabulary, as vLLM's ``VocabParallelEmbedding`` does,
so that all ranks hold equal shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm, prod

from shardedmodel_runtime.errors import InvalidSharding, excerpt
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS
from shardedmodel_runtime.formats.hf import ModelConfig
from shardedmodel_runtime.sharding.cuts import AxisCut, Over, Range
from shardedmodel_runtime.sharding.rules import Rule

Ranges = tuple[tuple[Range, ...], ...]
"""For each rank, its ranges."""


@dataclass(frozen=True, slots=True)
class Uncut:
    """One tensor before it is cut over one kind of parallelism, and all a strategy may ask about.

    Args:
        name: for messages, and to know a bias.
        dtype: as it lies in the layout.
        shape: of the whole tensor.
        degree: number of ranks to cut it for.
        config: of the model.
        rule: names the strategy and its details.
        over: the kind of parallelism whose ranks these are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    degree: int
    config: ModelConfig
    rule: Rule
    over: Over = "tensor"

    @property
    def is_bias(self) -> bool:
        """Whether it is a bias, hence the output features alone."""
        return len(self.shape) == 1 and self.name.endswith("bias")

    @property
    def output_dim(self) -> int:
        """The dimension of the output features."""
        return len(self.shape) - 1 if self.rule.transposed else 0

    def cut(self, dim: int, ranges: Ranges, pad: tuple[int, ...] | None = None) -> AxisCut:
        """The cut along ``dim`` into ``ranges``.

        Raises:
            InvalidSharding: a range begins or ends inside a byte (dtypes below 8 bits).
        """
        step_bits = prod(self.shape[dim + 1 :]) * DTYPE_BITS[self.dtype]
        bounds = {bound for spans in ranges for span in spans for bound in span}
        if any(bound * step_bits % 8 for bound in bounds):
            raise self.refuse(
                f"would cut inside a byte, for {self.dtype} has {DTYPE_BITS[self.dtype]} bits; "
                "use 'replicate'"
            )
        return AxisCut(self.over, dim, ranges, pad or (0,) * self.degree)

    def shares(self, dim: int, first: int, stop: int) -> list[Range]:
        """Share the indices ``[first, stop)`` of ``dim`` out evenly, one range to each rank.

        Raises:
            InvalidSharding: the ranks do not divide them and the rule does not say ``chunk``.
        """
        size = stop - first
        if size % self.degree and self.rule.uneven == "refuse":
            part = "" if size == self.shape[dim] else f"the {size} of one part of "
            raise self.refuse(
                f"cannot cut {part}dimension {dim} of size {self.shape[dim]} into "
                f"parallelism.{self.over} = {self.degree} equal parts; use a number of ranks that "
                "divides it, uneven: chunk, or 'replicate'"
            )
        share = -(-size // self.degree)
        return [
            (min(first + rank * share, stop), min(first + (rank + 1) * share, stop))
            for rank in range(self.degree)
        ]

    def need_dimensions(self, count: int, instead: str = "'replicate'") -> None:
        """See that the tensor has as many dimensions as a strategy needs.

        Raises:
            InvalidSharding: it has fewer.
        """
        if len(self.shape) < count:
            dimensions = {1: "one dimension", 2: "two dimensions"}[count]
            raise self.refuse(f"needs at least {dimensions}; use {instead}")

    def refuse(self, why: str) -> InvalidSharding:
        """Make the error that says why the strategy cannot cut this tensor."""
        return InvalidSharding(
            f"tensor {excerpt(self.name)!r} of shape {list(self.shape)}: "
            f"strategy {self.rule.strategy!r} {why}"
        )


def replicate(tensor: Uncut) -> None:
    """Whole on every rank."""


def column(tensor: Uncut) -> AxisCut:
    """Output features: dimension 0 of a weight, and the bias with it."""
    tensor.need_dimensions(1)
    dim = tensor.output_dim
    return tensor.cut(dim, one_each(tensor.shares(dim, 0, tensor.shape[dim])))


def row(tensor: Uncut) -> AxisCut | None:
    """Input features: the last dimension of a weight; a bias stays whole, added once."""
    if tensor.is_bias:
        return None
    tensor.need_dimensions(2, "'column' or 'replicate'")
    dim = 0 if tensor.rule.transposed else len(tensor.shape) - 1
    return tensor.cut(dim, one_each(tensor.shares(dim, 0, tensor.shape[dim])))


def vocab(tensor: Uncut) -> AxisCut:
    """Rows of a vocabulary, evenly after padding; the pad is zeros at the end, never weight."""
    tensor.need_dimensions(1)
    size = tensor.shape[0]
    multiple = lcm(tensor.rule.multiple, tensor.degree)
    share = -(-size // multiple) * multiple // tensor.degree
    bounds = [
        (min(rank * share, size), min((rank + 1) * share, size)) for rank in range(tensor.degree)
    ]
    pad = tuple(share - (stop - start) for start, stop in bounds)
    return tensor.cut(0, one_each(bounds), pad)


def one_each(bounds: list[Range]) -> Ranges:
    """One range for each rank, none for those whose range is empty."""
    return tuple((bound,) if bound[0] < bound[1] else () for bound in bounds)


Strategy = Callable[[Uncut], AxisCut | None]
