"""Small configurations of many architectures: 2 layers, 8 heads of 8, everything divisible by 4."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WORLDS = (2, 4)
"""Sizes of the process groups that every case runs in."""

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "vocab_size": 256,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
PLAIN: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 64,
    "vocab_size": 250,
    "tie_word_embeddings": False,
}
"""Without shared heads, and with a vocabulary that has to be padded."""
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LATENT: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 8,
}
GPT: dict[str, Any] = {
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 8,
    "n_positions": 64,
    "vocab_size": 256,
}
T5: dict[str, Any] = {
    "d_model": 64,
    "d_kv": 8,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 8,
    "vocab_size": 250,
}
ENCODER_DECODER: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "vocab_size": 250,
}
IMAGE: dict[str, Any] = {**PLAIN, "image_size": 8, "patch_size": 4}


@dataclass(frozen=True)
class Case:
    """One architecture, small.

    Args:
        model_type: of transformers.
        config: of the model.
        apart: endings of tensors that both split, but each in another way.
        variant: tells cases of one type apart.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    variant: str = ""

    @property
    def name(self) -> str:
        """What the case is called in results."""
        return " ".join(filter(None, (self.model_type, self.variant)))


def _dense(model_type: str, **changes: Any) -> Case:
    return Case(model_type, {**SMALL, **changes})


def _sparse(model_type: str, **changes: Any) -> Case:
    return Case(model_type, {**SMALL, **EXPERTS, **changes})


GATHERED = "mlp.gate_up_proj.weight"
"""Gate and up in one: transformers cuts them as if they were one matrix and gathers the output."""

CARRIED = (
    *map(
        _dense,
        (
            "apertus",
            "arcee",
            "cohere",
            "cohere2",
            "ernie4_5",
            "exaone4",
            "gemma",
            "gemma2",
            "gemma3_text",
            "gpt_neox",
            "granite",
            "helium",
            "llama",
            "mistral",
            "nemotron",
            "olmo",
            "olmo2",
            "olmo3",
            "phi",
            "qwen2",
            "qwen3",
            "seed_oss",
            "smollm3",
            "starcoder2",
        ),
    ),
    Case("glm", SMALL, apart=(GATHERED,)),
    Case("glm4", SMALL, apart=(GATHERED,)),
    Case("phi3", SMALL, apart=(GATHERED, "self_attn.qkv_proj.weight")),
    *map(
        _sparse,
        (
            "ernie4_5_moe",
            "glm4_moe",
            "granitemoe",
            "llama4_text",
            "mixtral",
            "olmoe",
            "phimoe",
            "qwen2_moe",
            "qwen3_moe",
        ),
    ),
    _sparse("deepseek_v2", **LATENT),
    _sparse("deepseek_v3", **LATENT),
    _dense("minicpm3", **LATENT),
)
"""Architectures with a plan in transformers, to compare shards with."""


BY_HAND = (
    Case("albert", {**PLAIN, "embedding_size": 32, "num_hidden_groups": 2}),
    Case("bart", ENCODER_DECODER),
    Case("bert", PLAIN),
    Case("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 8, "vocab_size": 250}),
    Case("camembert", PLAIN),
    Case(
        "clip",
        {
            "text_config": {**PLAIN, "eos_token_id": 97},
            "vision_config": IMAGE,
            "projection_dim": 64,
        },
    ),
    Case(
        "dbrx",
        {
            "d_model": 64,
            "n_heads": 8,
            "n_layers": 2,
            "vocab_size": 250,
            "attn_config": {"kv_n_heads": 4, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 16, "moe_top_k": 4},
        },
    ),
    Case("deberta-v2", PLAIN),
    Case("deit", IMAGE),
    Case(
        "distilbert", {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 8, "vocab_size": 250}
    ),
    Case("electra", {**PLAIN, "embedding_size": 32}),
    Case("falcon", {**PLAIN, "multi_query": True}, variant="multi-query"),
    Case(
        "falcon",
        {**PLAIN, "new_decoder_architecture": True, "num_kv_heads": 4},
        variant="grouped",
    ),
    Case("gpt2", GPT),
    Case("gpt_bigcode", {**GPT, "multi_query": True}),
    Case(
        "gpt_neo", {**PLAIN, "num_layers": 2, "attention_types": [[["global"], 2]], "num_heads": 8}
    ),
    Case("gpt_oss", {**SMALL, **EXPERTS}),
    Case("gptj", {**GPT, "rotary_dim": 4}),
    Case("mbart", ENCODER_DECODER),
    Case("mpt", {"d_model": 64, "n_heads": 8, "n_layers": 2, "vocab_size": 250}),
    Case("mt5", T5),
    Case("openai-gpt", GPT),
    Case("opt", {**PLAIN, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    Case("persimmon", PLAIN),
    Case("roberta", PLAIN),
    Case("siglip", {"text_config": PLAIN, "vision_config": IMAGE}),
    Case("stablelm", {**PLAIN, "num_key_value_heads": 2}),
    Case("t5", T5),
    Case("t5gemma", {"encoder": SMALL, "decoder": SMALL, "vocab_size": 256}),
    Case(
        "t5gemma2",
        {
            "encoder": {"text_config": SMALL, "vision_config": IMAGE, "image_token_index": 255},
            "decoder": SMALL,
            "vocab_size": 256,
            "image_token_index": 255,
        },
    ),
    Case("umt5", T5),
    Case("vit", IMAGE),
    Case(
        "whisper",
        {
            **ENCODER_DECODER,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 16,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
    Case("xlm-roberta", PLAIN),
)
"""Architectures by hand, which transformers cannot split."""

WITHOUT_LOGITS = frozenset(
    {
        # Norms of queries and keys over all heads, for which transformers gathers them.
        "olmo2",
        "olmo3",
        "olmoe",
    }
)
LOGITS = frozenset(case.name for case in (*CARRIED, *BY_HAND)) - WITHOUT_LOGITS
"""Cases whose sharded model is also run."""
