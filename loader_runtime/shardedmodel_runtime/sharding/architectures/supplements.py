"""What plans of ``transformers`` leave whole although it can be cut, by hand.

Some plans name the experts of a model alone. Its attention and its shared experts are cut here as
in the models that they were taken from.
"""

from __future__ import annotations

from collections.abc import Mapping

from shardedmodel_runtime.sharding.architectures.globs import attention, embedding, linear, whole
from shardedmodel_runtime.sharding.rules import Rule

_ATTENTION = attention(".self_attn", "q_proj", "k_proj", "v_proj", "o_proj")

_LATENT_ATTENTION = (
    *linear(".self_attn.q_proj", "heads", ("query",)),
    *linear(".self_attn.q_b_proj", "heads", ("query",)),
    *linear(".self_attn.kv_b_proj", "heads", ("query",)),
    *linear(".self_attn.o_proj", "row"),
)


def _gated(module: str) -> tuple[Rule, ...]:
    return (
        *linear(f"{module}.gate_proj", "column"),
        *linear(f"{module}.up_proj", "column"),
        *linear(f"{module}.down_proj", "row"),
    )


_SHARED_EXPERTS = (*_gated(".mlp.shared_experts"), *_gated(".mlp.shared_expert"))

_GRANITE = (
    *_ATTENTION,
    *linear(".shared_mlp.input_linear", "packed"),
    *linear(".shared_mlp.output_linear", "row"),
)

_TIMM_TOWER = whole(
    "*vision_tower.*",
    "*audio_tower.*",
    "*multi_modal_projector.*",
    "*embed_vision.*",
    "*embed_audio.*",
)

SUPPLEMENTS: Mapping[str, tuple[Rule, ...]] = {
    "afmoe": (
        *_ATTENTION,
        *linear(".self_attn.gate_proj", "heads", ("query",)),
        *_gated(".mlp"),
        *_SHARED_EXPERTS,
    ),
    "axk1": _LATENT_ATTENTION,
    "deepseek_v3": _LATENT_ATTENTION,
    "exaone_moe": _SHARED_EXPERTS,
    "glm4_moe_lite": _SHARED_EXPERTS,
    "gpt_neox": embedding("embed_in"),
    "granitemoe": _GRANITE,
    "granitemoehybrid": _GRANITE[len(_ATTENTION) :],
    "granitemoeshared": _GRANITE,
    "hunyuan_v1_moe": (*_ATTENTION, *_gated(".mlp.shared_mlp")),
    "jamba": (*_ATTENTION, *_gated(".feed_forward")),
    "lfm2_moe": attention(".self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    "mistral4": _LATENT_ATTENTION,
    "phimoe": _ATTENTION,
    "qwen2_moe": _SHARED_EXPERTS,
    "solar_open": _SHARED_EXPERTS,
    "step3p5": (*_gated(".mlp"), *_SHARED_EXPERTS),
    "youtu": _LATENT_ATTENTION,
}
"""Rules by ``model_type``; they come before those of transformers."""

AROUND: Mapping[str, tuple[str, tuple[Rule, ...]]] = {
    "fast_vlm": ("qwen2", _TIMM_TOWER),
    "gemma3n": ("gemma3n_text", _TIMM_TOWER),
    # It reads the keys and values of another model, and has none of its own.
    "gemma4_assistant": (
        "gemma4_text",
        whole("*pre_projection.*", "*post_projection.*", "*masked_embedding.*"),
    ),
    "perception_lm": ("llama", _TIMM_TOWER),
    "qwen3_omni_moe": (
        "qwen3_omni_moe_text",
        whole("*talker.*", "*code2wav.*", "*audio_tower.*", "*visual.*"),
    ),
}
"""Composite models without generated data: the type of the model inside, and what is around it."""
