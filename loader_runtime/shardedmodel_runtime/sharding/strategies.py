"""The strategies: from a tensor's shape and the number of ranks to the ranges of each rank.

``column`` and ``row`` are Megatron-LM's (Shoeybi et al., 2019): the output dimension of a weight is
0, its input dimension the last. ``heads`` cuts like ``column`` but never through a head. ``vocab``
pads the vocabulary to a multiple of 64, as vLLM's ``VocabParallelEmbedding`` does, so that all
ranks hold equal shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import lcm, prod

from shardedmodel_runtime.errors import InvalidSharding, excerpt
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS
from shardedmodel_runtime.formats.hf import ModelConfig
from shardedmodel_runtime.parallelism import MAX_DEGREE
from shardedmodel_runtime.sharding.plan import REPLICATE, Range, TensorCut

VOCAB_MULTIPLE = 64
"""Rows that a padded vocabulary is a multiple of (vLLM, ``DEFAULT_VOCAB_PADDING_SIZE``)."""


@dataclass(frozen=True, slots=True)
class Uncut:
    """One tensor before it is cut, and all that a strategy may ask about."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    degree: int
    config: ModelConfig

    def cut(
        self,
        strategy: str,
        dim: int,
        ranges: tuple[tuple[Range, ...], ...],
        pad: tuple[int, ...] | None = None,
    ) -> TensorCut:
        """The cut along ``dim`` into ``ranges``.

        Raises:
            InvalidSharding: a range begins or ends inside a byte (dtypes below 8 bits).
        """
        step_bits = prod(self.shape[dim + 1 :]) * DTYPE_BITS[self.dtype]
        bounds = {bound for spans in ranges for span in spans for bound in span}
        if any(bound * step_bits % 8 for bound in bounds):
            raise self.refuse(
                strategy,
                f"would cut inside a byte, for {self.dtype} has {DTYPE_BITS[self.dtype]} bits; "
                "use 'replicate'",
            )
        zeros = (0,) * self.degree
        return TensorCut(self.name, self.dtype, self.shape, strategy, dim, ranges, pad or zeros)

    def refuse(self, strategy: str, why: str) -> InvalidSharding:
        """Make the error that says why ``strategy`` cannot cut this tensor."""
        return InvalidSharding(
            f"tensor {excerpt(self.name)!r} of shape {list(self.shape)}: "
            f"strategy {strategy!r} {why}"
        )


def replicate(tensor: Uncut) -> TensorCut:
    """Whole on every rank."""
    return TensorCut(tensor.name, tensor.dtype, tensor.shape, REPLICATE)


def column(tensor: Uncut) -> TensorCut:
    """Output features: dimension 0 of a weight, and the bias with it."""
    if not tensor.shape:
        raise tensor.refuse("column", "needs at least one dimension")
    return tensor.cut("column", 0, _even(tensor, "column", 0))


def row(tensor: Uncut) -> TensorCut:
    """Input features: the last dimension of a weight; a bias stays whole, added once."""
    if len(tensor.shape) == 1 and tensor.name.endswith("bias"):
        return TensorCut(tensor.name, tensor.dtype, tensor.shape, "row")
    if len(tensor.shape) < 2:
        raise tensor.refuse("row", "needs at least two dimensions; use 'column' or 'replicate'")
    last = len(tensor.shape) - 1
    return tensor.cut("row", last, _even(tensor, "row", last))


def vocab(tensor: Uncut) -> TensorCut:
    """Rows of a vocabulary, evenly after padding; the pad is zeros at the end, never weight."""
    if not tensor.shape:
        raise tensor.refuse("vocab", "needs at least one dimension")
    size = tensor.shape[0]
    multiple = lcm(VOCAB_MULTIPLE, tensor.degree)
    share = -(-size // multiple) * multiple // tensor.degree
    bounds = [
        (min(rank * share, size), min((rank + 1) * share, size)) for rank in range(tensor.degree)
    ]
    ranges = tuple((bound,) if bound[0] < bound[1] else () for bound in bounds)
    pad = tuple(share - (stop - start) for start, stop in bounds)
    return tensor.cut("vocab", 0, ranges, pad)


def heads(tensor: Uncut) -> TensorCut:
    """Whole attention heads of a query, key or value projection, and its bias.

    Fewer key-value heads than ranks are replicated: rank ``r`` gets head
    ``r // (degree / key_value_heads)``, the mapping of vLLM and Megatron-LM.
    """
    count = _head_count(tensor)
    width = tensor.shape[0] // count
    if count % tensor.degree == 0:
        share = count // tensor.degree
        per_rank = [(rank * share, (rank + 1) * share) for rank in range(tensor.degree)]
    elif tensor.degree % count == 0 and count < tensor.config.attention_heads:
        repeat = tensor.degree // count
        per_rank = [(rank // repeat, rank // repeat + 1) for rank in range(tensor.degree)]
    else:
        raise _indivisible(tensor, count)
    ranges = tuple(((start * width, stop * width),) for start, stop in per_rank)
    return tensor.cut("heads", 0, ranges)


STRATEGIES: Mapping[str, Callable[[Uncut], TensorCut]] = {
    "column": column,
    "row": row,
    "vocab": vocab,
    "heads": heads,
    REPLICATE: replicate,
}
"""Every strategy by the name it has in rules."""


def _even(tensor: Uncut, strategy: str, dim: int) -> tuple[tuple[Range, ...], ...]:
    size = tensor.shape[dim]
    if size % tensor.degree:
        raise tensor.refuse(
            strategy,
            f"cannot cut dimension {dim} of size {size} into parallelism.tensor = {tensor.degree} "
            "equal parts; use a number of ranks that divides it, or 'replicate'",
        )
    share = size // tensor.degree
    return tuple(((rank * share, (rank + 1) * share),) for rank in range(tensor.degree))


def _head_count(tensor: Uncut) -> int:
    config = tensor.config
    if not config.attention_heads or not config.head_dim:
        raise tensor.refuse("heads", "needs num_attention_heads and hidden_size in config.json")
    for count in (config.attention_heads, config.key_value_heads):
        if tensor.shape and tensor.shape[0] == count * config.head_dim:
            return count
    raise tensor.refuse(
        "heads",
        f"needs {config.attention_heads} query or {config.key_value_heads} key-value heads of "
        f"{config.head_dim} in dimension 0",
    )


def _indivisible(tensor: Uncut, count: int) -> InvalidSharding:
    config = tensor.config
    most = min(config.attention_heads, MAX_DEGREE)
    working = [degree for degree in range(1, most + 1) if _works(config, degree)]
    kind = "key-value" if count < config.attention_heads else "attention"
    return InvalidSharding(
        f"parallelism.tensor: {tensor.degree} ranks cannot share the {count} {kind} heads of "
        f"{excerpt(tensor.name)!r}; use one of {working}"
    )


def _works(config: ModelConfig, degree: int) -> bool:
    shared = config.key_value_heads
    return config.attention_heads % degree == 0 and (shared % degree == 0 or degree % shared == 0)
