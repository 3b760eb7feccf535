"""Plans by hand for decoders that ``transformers`` has none for.

Source of each: the module of the same name in transformers 5, and for what lies fused in one tensor
the ``view`` and ``split`` that take it apart there.
"""

from __future__ import annotations

from collections.abc import Mapping

from shardedmodel_runtime.sharding.architectures.globs import (
    GROUP,
    QUERY_KEY_VALUE,
    attention,
    embedding,
    linear,
    whole,
)
from shardedmodel_runtime.sharding.rules import Rule

_GPT2 = (
    # Conv1D keeps its weight as (in, out); c_attn is query, key and value one after the other.
    *linear(".attn.c_attn", "packed", QUERY_KEY_VALUE, transposed=True),
    *linear(".attn.c_proj", "row", transposed=True),
    *linear(".crossattention.q_attn", "heads", ("query",), transposed=True),
    *linear(".crossattention.c_attn", "packed", ("key", "value"), transposed=True),
    *linear(".crossattention.c_proj", "row", transposed=True),
    *linear(".mlp.c_fc", "column", transposed=True),
    *linear(".mlp.c_proj", "row", transposed=True),
    *embedding("wte", "tokens_embed", "lm_head"),
    *whole("*wpe.weight", "*positions_embed.weight", "*.attn.bias", "*.attn.masked_bias"),
)

_GPT_BIGCODE = (
    # One group of all queries with one key and one value head, or a group for each head.
    *linear(".attn.c_attn", "packed", GROUP),
    *linear(".attn.c_proj", "row"),
    *linear(".mlp.c_fc", "column"),
    *linear(".mlp.c_proj", "row"),
    *embedding("wte", "lm_head"),
    *whole("*wpe.weight"),
)

_FUSED_HEADS = (
    # Each head's query, key and value lie together; of grouped heads the group's (Falcon).
    *linear(".query_key_value", "packed", GROUP),
    *linear("attention.dense", "row"),
    *linear("attn.dense", "row"),
    *linear(".mlp.dense_h_to_4h", "column"),
    *linear(".mlp.dense_4h_to_h", "row"),
    *embedding("word_embeddings", "embed_tokens", "embed_in", "embed_out", "lm_head"),
)

_GPTJ = (
    *attention(".attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    *linear(".mlp.fc_in", "column"),
    *linear(".mlp.fc_out", "row"),
    *embedding("wte", "lm_head"),
    *whole("*.attn.bias", "*.attn.masked_bias", "*.embed_positions"),
)

_GPT_NEO = (
    *attention(".attention", "q_proj", "k_proj", "v_proj", "out_proj"),
    *linear(".mlp.c_fc", "column"),
    *linear(".mlp.c_proj", "row"),
    *embedding("wte", "lm_head"),
    *whole("*wpe.weight", "*.attention.bias", "*.attention.masked_bias"),
)

_OPT = (
    *attention(".self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    *linear(".fc1", "column"),
    *linear(".fc2", "row"),
    *embedding("embed_tokens", "lm_head"),
    *whole("*embed_positions.weight", "*project_in.weight", "*project_out.weight"),
)

_MPT = (
    *linear(".attn.Wqkv", "packed", QUERY_KEY_VALUE),
    *linear(".attn.out_proj", "row"),
    *linear(".ffn.up_proj", "column"),
    *linear(".ffn.down_proj", "row"),
    *embedding("wte", "lm_head"),
    *whole("*wpe.weight"),
)

_DBRX_EXPERTS = 16
"""Experts whose rows lie one after the other in one tensor; all published DBRX models have 16."""

_DBRX = (
    *linear(".attn.Wqkv", "packed", QUERY_KEY_VALUE),
    *linear(".attn.out_proj", "row"),
    # All three are (experts x inner features, hidden): each expert is cut by its features.
    Rule("*.experts.mlp.w1", "packed", parts=(1,) * _DBRX_EXPERTS),
    Rule("*.experts.mlp.v1", "packed", parts=(1,) * _DBRX_EXPERTS),
    Rule("*.experts.mlp.w2", "packed", parts=(1,) * _DBRX_EXPERTS),
    *embedding("wte", "lm_head"),
)

_LLAMA_LIKE = (
    *attention(".self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    *linear(".mlp.gate_proj", "column"),
    *linear(".mlp.up_proj", "column"),
    *linear(".mlp.down_proj", "row"),
    *embedding("embed_tokens", "lm_head"),
)

_GPT_OSS = (
    *attention(".self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    Rule("*.self_attn.sinks", "heads", parts=("query",)),
    # Gate and up lie as pairs of columns, so an even share holds both halves of its features.
    Rule("*.experts.gate_up_proj", "experts", inner="column", transposed=True),
    Rule("*.experts.gate_up_proj_bias", "experts", inner="column"),
    Rule("*.experts.down_proj", "experts", inner="row", transposed=True),
    Rule("*.experts.down_proj_bias", "experts", inner="row"),
    *embedding("embed_tokens", "lm_head"),
)

DECODERS: Mapping[str, tuple[Rule, ...]] = {
    "bloom": _FUSED_HEADS,
    "dbrx": _DBRX,
    "falcon": _FUSED_HEADS,
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT_BIGCODE,
    "gpt_neo": _GPT_NEO,
    "gpt_oss": _GPT_OSS,
    "gptj": _GPTJ,
    "mpt": _MPT,
    "openai-gpt": _GPT2,
    "opt": _OPT,
    "persimmon": _FUSED_HEADS,
    "stablelm": _LLAMA_LIKE,
}
"""Rules by ``model_type``, before what is whole in every model."""
