"""From the tensor-parallel styles of ``transformers`` to the strategies of this package.

A style says how a module computes, a strategy which bytes a rank holds. Where a tensor holds
several projections, transformers cuts it as if it were one and gathers the output before it takes
them apart (``colwise_gather_output`` on ``gate_up_proj``); ``packed`` cuts each projection by
itself instead, so that a rank can go on with its own part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from shardedmodel_runtime.sharding.rules import Rule

EXPERTS = "experts "
"""Before a style: the tensor holds routed experts, which expert parallelism divides first."""

_KINDS = {
    "colwise": "column",
    "colwise_gather_output": "column",
    "colwise_rep": "column",
    "rowwise": "row",
    "rowwise_split_input": "row",
    "rowwise_rep": "row",
    "packed_colwise": "packed",
    "packed_rowwise": "packed",
    "embedding_rowwise": "vocab",
    "embedding_colwise": "row",
    "replicate": "replicate",
    "replicated_with_grad_allreduce": "replicate",
    "mla_kv_a_proj": "replicate",
    "sequence_parallel": "replicate",
}
"""The strategy of each style that says something about a tensor."""

_OF_EXPERTS = "packed_rowwise"
"""Halves along the last dimension: transformers has it for fused experts (llama4) alone."""

HOOKS = frozenset({"moe_tp_experts", "all_reduce", "moe_identity_expert", "local_params"})
"""Styles that only act on what a module computes; its tensors have styles of their own."""

_ATTENTION = re.compile(r"(^|\.)(self_attn|attn|attention)(\.|$)")

_HEADS: Mapping[str, tuple[str, ...]] = {
    "q_proj": ("query",),
    "k_proj": ("key",),
    "v_proj": ("value",),
    "to_q": ("query",),
    "to_k": ("key",),
    "to_v": ("value",),
    # Multi-head latent attention: every query head has its key and value in kv_b_proj.
    "q_b_proj": ("query",),
    "q_gate_proj": ("query",),
    "kv_b_proj": ("query",),
    # Gates of the attention's output and attention sinks: as many for each query head.
    "gate_proj": ("query",),
    "g_proj": ("query",),
    "gate_bias": ("query",),
    "sinks": ("query",),
}
"""The heads that an attention's projection consists of."""

_PACKED: Mapping[str, tuple[str | int, ...]] = {
    "qkv_proj": ("query", "key", "value"),
    "query_key_value": ("group",),
    "gqkv_proj": ("query", "query", "key", "value"),
    "gate_up_proj": (),
}
"""Several projections in one tensor, by the module's name, and what they are."""

_VOCABULARY = ("lm_head", "embed_out", "head")
"""Modules whose output features are the vocabulary."""


class UnknownStyle(ValueError):
    """A style that this release cannot say the strategy of."""


def rules_of(pattern: str, style: str) -> tuple[Rule, ...]:
    """The rules for what a plan of transformers says of a module or a parameter.

    Args:
        pattern: its name, with ``*`` for numbers.
        style: one of transformers' styles, after ``EXPERTS`` for routed experts.

    Raises:
        UnknownStyle: nobody has said yet which strategy the style is.
    """
    if style in HOOKS:
        return ()
    is_expert = style.startswith(EXPERTS)
    style = style.removeprefix(EXPERTS)
    if style not in _KINDS or (style == _OF_EXPERTS and not is_expert):
        raise UnknownStyle(f"{pattern}: style {style!r} has no strategy; add it to styles.py")
    globs = [f"*{pattern}"]
    if not pattern.endswith((".weight", ".bias")):
        globs += [f"*{pattern}.weight", f"*{pattern}.bias"]
    if is_expert:
        inner = "packed" if pattern.endswith("gate_up_proj") else _KINDS[style]
        transposed = style == "packed_rowwise"
        return tuple(Rule(glob, "experts", inner=inner, transposed=transposed) for glob in globs)
    strategy, parts = _strategy(pattern, style)
    if strategy == "vocab":
        globs = [glob for glob in globs if glob.endswith((".weight", ".bias"))]
    return tuple(Rule(glob, strategy, parts=parts) for glob in globs)


def _strategy(pattern: str, style: str) -> tuple[str, tuple[str | int, ...]]:
    module = re.sub(r"(\.linear)?(\.weight|\.bias)?$", "", pattern)
    leaf = module.rpartition(".")[2]
    kind = _KINDS[style]
    if kind != "column":
        return kind, ()
    if leaf in _VOCABULARY:
        return "vocab", ()
    if leaf in _PACKED:
        return "packed", _PACKED[leaf]
    if leaf in _HEADS and _ATTENTION.search(pattern):
        return "heads", _HEADS[leaf]
    return "column", ()
