"""Rules in the shapes that they have in every plan.

Globs begin with ``*`` because checkpoints of the same model come with and without prefixes
(``model.``, ``language_model.model.``, ``bert.``). They name ``weight`` and ``bias`` alone:
quantised checkpoints keep other tensors beside them, whose dimensions mean something else.
"""

from __future__ import annotations

from shardedmodel_runtime.sharding.cuts import REPLICATE
from shardedmodel_runtime.sharding.rules import Rule

Parts = tuple[str | int, ...]

QUERY_KEY_VALUE: Parts = ("query", "key", "value")
GROUP: Parts = ("group",)

WHOLE = (
    # Norms work on whole hidden states, and norms of single heads are one head long.
    "*norm.weight",
    "*norm.bias",
    "*norm[0-9].weight",
    "*norm[0-9].bias",
    "*norm_[0-9a-z].weight",
    "*norm_[0-9a-z].bias",
    "*norm.*.weight",
    "*norm.*.bias",
    "*layernorm*",
    "*layer_norm*",
    "*LayerNorm*",
    "*ln_[0-9a-z].weight",
    "*ln_[0-9a-z].bias",
    # Positions are the same for all heads and all ranks.
    "*rotary*inv_freq",
    "*rotary_emb.*",
    "*position*embedding*",
    "*token_type_embeddings.weight",
    # Every rank routes every token itself.
    "*.gate.weight",
    "*.gate.bias",
    "*router*",
    "*e_score_correction_bias",
    "*expert_bias",
    "*shared_expert_gate.*",
    # Heads of tasks have a few outputs.
    "*pooler.*",
    "*classifier.*",
    "*qa_outputs.*",
    "*score.weight",
    # What only predicts further tokens, beside layers of its own.
    "*eh_proj.weight",
    "*shared_head.*",
    # Numbers of activations and quantisation, one for all ranks.
    "*_scalar",
)
"""What is used whole on every rank, in whatever model it stands."""


def linear(
    module: str, strategy: str, parts: Parts = (), *, transposed: bool = False
) -> tuple[Rule, Rule]:
    """The rules of a linear layer: its weight, and the bias that goes with it."""
    return (
        Rule(f"*{module}.weight", strategy, transposed=transposed, parts=parts),
        Rule(f"*{module}.bias", strategy, transposed=transposed, parts=parts),
    )


def projections(module: str, query: str, key: str, value: str) -> tuple[Rule, ...]:
    """The rules of an attention's query, key and value, by the names that they have in it."""
    return (
        *linear(f"{module}.{query}", "heads", ("query",)),
        *linear(f"{module}.{key}", "heads", ("key",)),
        *linear(f"{module}.{value}", "heads", ("value",)),
    )


def attention(module: str, query: str, key: str, value: str, output: str) -> tuple[Rule, ...]:
    """The rules of a whole attention, by the names of its four projections."""
    return (*projections(module, query, key, value), *linear(f"{module}.{output}", "row"))


def embedding(*modules: str) -> tuple[Rule, ...]:
    """The rules of embeddings and output heads, whose rows are the vocabulary."""
    return tuple(rule for module in modules for rule in linear(module, "vocab"))


def whole(*patterns: str) -> tuple[Rule, ...]:
    """Rules that keep what matches whole on every rank: as a decision, not for want of one."""
    return tuple(Rule(pattern, REPLICATE) for pattern in patterns)
