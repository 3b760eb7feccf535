"""Attention heads: projections that are never cut through a head, one by one or packed in one."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise

from shardedmodel_runtime.errors import InvalidSharding, excerpt
from shardedmodel_runtime.formats.hf import ModelConfig
from shardedmodel_runtime.parallelism import MAX_DEGREE
from shardedmodel_runtime.sharding.cuts import AxisCut, Range
from shardedmodel_runtime.sharding.strategies import Uncut

HEAD_PARTS = ("query", "key", "value", "group")
"""Names that ``parts`` of a rule may hold. ``group``: a key and a value head with all the query
heads that use them, one group after the other (Falcon's new decoder architecture); where key-value
heads are as many as query heads, each head's query, key and value (BLOOM, GPT-NeoX)."""


def heads(tensor: Uncut) -> AxisCut:
    """Whole attention heads of a query, key or value projection, and its bias.

    Fewer key-value heads than ranks are replicated: rank ``r`` gets head
    ``r // (degree / key_value_heads)``, the mapping of vLLM and Megatron-LM.
    """
    tensor.need_dimensions(1)
    dim = tensor.output_dim
    count = _head_count(tensor, tensor.shape[dim])
    shared = share_heads(tensor, count, replicated=count < tensor.config.attention_heads)
    width = tensor.shape[dim] // count
    return tensor.cut(dim, tuple(((a * width, b * width),) for a, b in shared))


def packed(tensor: Uncut) -> AxisCut:
    """Several projections, one after the other in one tensor, each cut by itself."""
    tensor.need_dimensions(1)
    dim = tensor.output_dim
    parts = tensor.rule.parts or (1, 1)
    numbers = [part for part in parts if isinstance(part, int)]
    if len(numbers) == len(parts):
        spans = _even_parts(tensor, dim, numbers)
    else:
        spans = _head_parts(tensor, dim, [str(part) for part in parts])
    ranges = tuple(_joined(span[rank] for span in spans) for rank in range(tensor.degree))
    return tensor.cut(dim, ranges)


def _even_parts(tensor: Uncut, dim: int, numbers: list[int]) -> list[list[Range]]:
    unit, rest = divmod(tensor.shape[dim], sum(numbers))
    if rest:
        raise tensor.refuse(
            f"cannot divide dimension {dim} of size {tensor.shape[dim]} into parts of relative "
            f"sizes {numbers}"
        )
    bounds = [0, *accumulate(number * unit for number in numbers)]
    return [tensor.shares(dim, first, stop) for first, stop in pairwise(bounds)]


def _head_parts(tensor: Uncut, dim: int, parts: list[str]) -> list[list[Range]]:
    config = tensor.config
    _need_heads(tensor)
    counts = [
        config.attention_heads if part == "query" else config.key_value_heads for part in parts
    ]
    width, rest = divmod(tensor.shape[dim], sum(counts))
    if rest or width % config.head_dim:
        raise tensor.refuse(
            f"needs {' + '.join(str(count) for count in counts)} heads of {config.head_dim} in "
            f"dimension {dim}, for its parts {parts}"
        )
    spans, first = [], 0
    for part, count in zip(parts, counts, strict=True):
        shared = share_heads(tensor, count, replicated=part in ("key", "value"))
        spans.append([(first + a * width, first + b * width) for a, b in shared])
        first += count * width
    return spans


def share_heads(tensor: Uncut, count: int, *, replicated: bool) -> list[Range]:
    """Share ``count`` heads out among the ranks; ``replicated``: fewer than ranks may repeat.

    Raises:
        InvalidSharding: they cannot be shared; names the numbers of ranks that work.
    """
    degree = tensor.degree
    if count % degree == 0:
        share = count // degree
        return [(rank * share, (rank + 1) * share) for rank in range(degree)]
    if replicated and degree % count == 0:
        repeat = degree // count
        return [(rank // repeat, rank // repeat + 1) for rank in range(degree)]
    raise _indivisible(tensor, count)


def _joined(spans: Iterable[Range]) -> tuple[Range, ...]:
    """Ascending ranges without empty ones, neighbours in one."""
    joined: list[Range] = []
    for first, stop in spans:
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], stop)
        elif first < stop:
            joined.append((first, stop))
    return tuple(joined)


def _head_count(tensor: Uncut, size: int) -> int:
    _need_heads(tensor)
    config = tensor.config
    for count in (config.attention_heads, config.key_value_heads):
        if size == count * config.head_dim:
            return count
    raise tensor.refuse(
        f"needs {config.attention_heads} query or {config.key_value_heads} key-value heads of "
        f"{config.head_dim} in dimension {tensor.output_dim}"
    )


def _need_heads(tensor: Uncut) -> None:
    if not tensor.config.attention_heads or not tensor.config.head_dim:
        raise tensor.refuse("needs num_attention_heads and hidden_size in config.json")


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
