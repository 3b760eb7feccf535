"""Built-in rules for families of architectures, by ``model_type``.

Globs are matched against the full parameter name; the first that matches decides. They begin with
``*`` because checkpoints of the same model come with and without prefixes (``model.``, ``bert.``).
Sources: the modules of Hugging Face ``transformers`` 5 and their ``base_model_tp_plan``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose name matches the glob ``match`` are cut by ``strategy``."""

    match: str
    strategy: str


_LLAMA = (
    Rule("*.self_attn.q_proj.*", "heads"),
    Rule("*.self_attn.k_proj.*", "heads"),
    Rule("*.self_attn.v_proj.*", "heads"),
    Rule("*.self_attn.o_proj.*", "row"),
    Rule("*.mlp.gate_proj.*", "column"),
    Rule("*.mlp.up_proj.*", "column"),
    Rule("*.mlp.down_proj.*", "row"),
    Rule("*embed_tokens.weight", "vocab"),
    Rule("*lm_head.*", "vocab"),
    # Norms work on whole hidden states, and per-head norms (qwen3, gemma3) are one head long.
    Rule("*norm.weight", "replicate"),
    Rule("*rotary_emb.inv_freq", "replicate"),
)

_BERT = (
    Rule("*attention.self.query.*", "heads"),
    Rule("*attention.self.key.*", "heads"),
    Rule("*attention.self.value.*", "heads"),
    Rule("*attention.output.dense.*", "row"),
    Rule("*intermediate.dense.*", "column"),
    Rule("*layer.*.output.dense.*", "row"),
    Rule("*embeddings.word_embeddings.weight", "vocab"),
    Rule("*predictions.decoder.*", "vocab"),
    Rule("*predictions.bias", "vocab"),
    Rule("*lm_head.decoder.*", "vocab"),
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
