"""Built-in rules for families of architectures, by ``model_type``.

Globs are matched against the full parameter name; the first that matches decides. They begin with
``*`` because checkpoints of the same model come with and without prefixes (``model.``, ``bert.``).
They name ``weight`` and ``bias`` alone: quantised checkpoints keep other tensors beside them
(``qweight``, ``scales``), whose dimensions mean something else, and which are replicated unmatched.
Sources: the modules of Hugging Face ``transformers`` 5 and their ``base_model_tp_plan``.
"""

from __future__ import annotations

from collections.abc import Mapping

from shardedmodel_runtime.sharding.rules import Rule


def _linear(module: str, strategy: str) -> tuple[Rule, Rule]:
    return Rule(f"{module}.weight", strategy), Rule(f"{module}.bias", strategy)


_LLAMA = (
    *_linear("*.self_attn.q_proj", "heads"),
    *_linear("*.self_attn.k_proj", "heads"),
    *_linear("*.self_attn.v_proj", "heads"),
    *_linear("*.self_attn.o_proj", "row"),
    *_linear("*.mlp.gate_proj", "column"),
    *_linear("*.mlp.up_proj", "column"),
    *_linear("*.mlp.down_proj", "row"),
    Rule("*embed_tokens.weight", "vocab"),
    *_linear("*lm_head", "vocab"),
    # Norms work on whole hidden states, and per-head norms (qwen3, gemma3) are one head long.
    Rule("*norm.weight", "replicate"),
    Rule("*rotary_emb.inv_freq", "replicate"),
)

_BERT = (
    *_linear("*attention.self.query", "heads"),
    *_linear("*attention.self.key", "heads"),
    *_linear("*attention.self.value", "heads"),
    *_linear("*attention.output.dense", "row"),
    *_linear("*intermediate.dense", "column"),
    *_linear("*layer.*.output.dense", "row"),
    Rule("*embeddings.word_embeddings.weight", "vocab"),
    *_linear("*predictions.decoder", "vocab"),
    Rule("*predictions.bias", "vocab"),
    *_linear("*lm_head.decoder", "vocab"),
    Rule("*lm_head.bias", "vocab"),
    # Small, and used whole on every rank: positions, types, norms, pooler and task heads.
    Rule("*embeddings.*", "replicate"),
    Rule("*LayerNorm.*", "replicate"),
    Rule("*layer_norm.*", "replicate"),
    Rule("*pooler.dense.*", "replicate"),
    Rule("*predictions.transform.*", "replicate"),
    Rule("*lm_head.dense.*", "replicate"),
    Rule("*seq_relationship.*", "replicate"),
)

FAMILIES: Mapping[str, tuple[Rule, ...]] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _LLAMA
    ),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), _BERT),
}
"""Rules by ``model_type``."""
