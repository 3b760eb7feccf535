"""Attention heads: projections that are never cut through a head, one by one or packed in one."""

from __future__ import annotations

from collections.abc import Iterable

from shardedmodel_runtime.errors import InvalidSharding, excerpt
from shardedmodel_runtime.formats.hf import ModelConfig
from shardedmodel_runtime.parallelism import MAX_DEGREE
from shardedmodel_runtime.sharding.cuts import AxisCut, Range
from shardedmodel_runtime.sharding.strategies import Uncut

HEAD_PARTS = ("query", "key", "value", "group")
"""Names that ``parts`` of a rule may hold. ``group``: a key and a value head behind the query heads
that use them, one group after the other. So lie Falcon's and GPTBigCode's projections, and those of
BLOOM and GPT-NeoX, where each query head has key and value of its own."""


def heads(tensor: Uncut) -> AxisCut:
    """Whole attention heads of a query, key or value projection, and its bias.

    Fewer key-value heads than ranks are replicated: rank ``r`` gets head
    ``r // (degree / key_value_heads)``, the mapping of vLLM and Megatron-LM.
    """
    tensor.need_dimensions(1)
    return _cut_parts(tensor, tensor.rule.parts or (_kind_by_size(tensor),))


def packed(tensor: Uncut) -> AxisCut:
    """Several projections, one after the other in one tensor, each cut by itself."""
    tensor.need_dimensions(1)
    return _cut_parts(tensor, tensor.rule.parts or (1, 1))


def _cut_parts(tensor: Uncut, parts: tuple[str | int, ...]) -> AxisCut:
    dim = tensor.output_dim
    sizes = [_part_size(tensor, part) for part in parts]
    unit, rest = divmod(tensor.shape[dim], sum(sizes))
    if rest:
        raise tensor.refuse(
            f"cannot divide dimension {dim} of size {tensor.shape[dim]} into its parts "
            f"{list(parts)} of {' + '.join(str(size) for size in sizes)}"
        )
    spans, first = [], 0
    for part, size in zip(parts, sizes, strict=True):
        spans.append(_share_part(tensor, part, first, size, unit))
        first += size * unit
    ranges = tuple(
        _joined(span for spans_of_part in spans for span in spans_of_part[rank])
        for rank in range(tensor.degree)
    )
    return tensor.cut(dim, ranges)


def _part_size(tensor: Uncut, part: str | int) -> int:
    """How many units of the cut dimension a part takes: heads, or what the rule says."""
    if isinstance(part, int):
        return part
    config = tensor.config
    if not config.attention_heads or not config.key_value_heads:
        raise tensor.refuse("needs num_attention_heads in config.json")
    if part == "group":
        return config.attention_heads + 2 * config.key_value_heads
    return config.attention_heads if part == "query" else config.key_value_heads


def _share_part(
    tensor: Uncut, part: str | int, first: int, size: int, unit: int
) -> list[list[Range]]:
    """For each rank, its ranges of one part, which begins at ``first``."""
    if isinstance(part, int):
        return [[share] for share in tensor.shares(tensor.output_dim, first, first + size * unit)]
    if part == "group":
        shares = _share_groups(tensor)
    else:
        shares = [[share] for share in _share_heads(tensor, size)]
    return [[(first + a * unit, first + b * unit) for a, b in spans] for spans in shares]


def _share_heads(tensor: Uncut, count: int) -> list[Range]:
    """Share ``count`` heads out among the ranks, which repeat them where they are fewer."""
    degree = tensor.degree
    if not _works(tensor.config, degree):
        raise _indivisible(tensor, count)
    if count % degree == 0:
        share = count // degree
        return [(rank * share, (rank + 1) * share) for rank in range(degree)]
    repeat = degree // count
    return [(rank // repeat, rank // repeat + 1) for rank in range(degree)]


def _share_groups(tensor: Uncut) -> list[list[Range]]:
    """Each rank's query heads, and the key and value head that they use.

    A group that several ranks share gives each a share of its queries, in order, and its key and
    value to all.
    """
    queries = tensor.config.attention_heads // tensor.config.key_value_heads
    shared = _share_heads(tensor, tensor.config.key_value_heads)
    sharing = max(tensor.degree // tensor.config.key_value_heads, 1)
    share = queries // sharing
    ranges = []
    for rank, (group, stop) in enumerate(shared):
        begin, end = group * (queries + 2), stop * (queries + 2)
        if sharing == 1:
            ranges.append([(begin, end)])
        else:
            own = begin + rank % sharing * share
            ranges.append([(own, own + share), (end - 2, end)])
    return ranges


def _joined(spans: Iterable[Range]) -> tuple[Range, ...]:
    """Ascending ranges without empty ones, neighbours in one."""
    joined: list[Range] = []
    for first, stop in spans:
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], stop)
        elif first < stop:
            joined.append((first, stop))
    return tuple(joined)


def _kind_by_size(tensor: Uncut) -> str:
    """Whether a projection is of query or key-value heads: its size tells where they differ."""
    config, size = tensor.config, tensor.shape[tensor.output_dim]
    if not config.attention_heads or not config.head_dim:
        raise tensor.refuse("needs num_attention_heads and hidden_size in config.json")
    for kind, count in (("query", config.attention_heads), ("key", config.key_value_heads)):
        if size == count * config.head_dim:
            return kind
    raise tensor.refuse(
        f"needs {config.attention_heads} query or {config.key_value_heads} key-value heads of "
        f"{config.head_dim} in dimension {tensor.output_dim}; where heads are of another size, "
        "say which with parts: [query], [key] or [value]"
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
