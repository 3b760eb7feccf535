"""One model of every architecture, without its weights.

Models are made on torch's meta device from their default configuration: names and shapes of
parameters are there, at the size of the published model, and no memory is spent on them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

_MAPPINGS = (
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
)
"""Where the class of a published checkpoint is looked for, in this order: with its encoder first,
which the class for causal language models lacks, then with its head."""

LEFT_OUT = {
    "fast_vlm": "its image tower is timm's, which is not installed; by hand",
    "gemma3n": "its image tower is timm's, which is not installed; by hand",
    "gemma4_assistant": "transformers can make no model whose layers all share keys; by hand",
    "nougat": "carries no plan, and has no valid default configuration",
    "perception_lm": "its image tower is timm's, which is not installed; by hand",
    "qwen3_omni_moe": "its speech model has no valid default configuration; by hand",
    "t5gemma": "encoder and decoder both carry the plan; by hand",
    "t5gemma2": "encoder and decoder both carry the plan; by hand",
}
"""Composite models that no data is generated for, and why."""

_LANGUAGE = ("text_config", "thinker_config", "vlm_config", "decoder")
"""Where the language model of a composite one is configured."""

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

_MISSING: dict[str, dict[str, Any]] = {
    "aya_vision": {
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152}
        | {"num_attention_heads": 16}
    },
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0}},
    "deepseek_ocr2_text": {"num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"]},
    "diffusion_gemma_text": {
        "num_experts": 8,
        "top_k_experts": 2,
        "moe_intermediate_size": 64,
    },
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1},
    "embedding_gemma2": {"vision_config": {}, "audio_config": {}},
    "gemma4": {"vision_config": {}, "audio_config": {}},
    "gemma4_unified": {"vision_config": {}, "audio_config": {}},
    "gemma4_unified_assistant": {"text_config": {"num_kv_shared_layers": 48}},
    "granite4_vision": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[-2, 0]],
        "spatial_target_layers": [12],
    },
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 512},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 256,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "t5gemma2": {"dropout_rate": 0.0},
    "t5gemma2_decoder": {"dropout_rate": 0.0},
    "t5gemma2_text": {"dropout_rate": 0.0},
}
"""What default configurations lack that their models cannot be made without."""


def config_classes() -> Iterator[tuple[str, type[PretrainedConfig]]]:
    """Every model type with its configuration's class, but for ``LEFT_OUT``."""
    for model_type in sorted(CONFIG_MAPPING_NAMES):
        if model_type not in LEFT_OUT:
            yield model_type, CONFIG_MAPPING[model_type]


@cache
def instance(model_type: str) -> PreTrainedModel | None:
    """The model of ``model_type``; None where transformers has no class for it."""
    made_by = model_class(model_type)
    if made_by is None:
        return None
    with torch.device("meta"), no_init_weights():
        return made_by(_config(model_type))


def _config(model_type: str) -> PretrainedConfig:
    config_class = CONFIG_MAPPING[model_type]
    missing = dict(_MISSING.get(model_type, {}))
    if not missing and (inside := inner_type(config_class)) in _MISSING:
        missing["text_config"] = _config(inside)
    return config_class(**missing)


def inner_type(config: type[PretrainedConfig]) -> str:
    """The type of the model inside a composite one that carries a plan; empty without one."""
    if not config.sub_configs:
        return ""
    return _planned_type(config())


def _planned_type(config: PretrainedConfig) -> str:
    names = sorted(config.sub_configs, key=lambda name: name not in _LANGUAGE)
    inside = [sub for name in names if (sub := getattr(config, name, None)) is not None]
    for sub in inside:
        if found := _planned_type(sub):
            return found
        if getattr(sub, "base_model_tp_plan", None):
            return str(sub.model_type)
    return ""


def model_class(model_type: str) -> type[PreTrainedModel] | None:
    """The class of a published checkpoint of ``model_type``; None where transformers has none."""
    config_class = CONFIG_MAPPING[model_type]
    for mapping in _MAPPINGS:
        named = mapping.get(model_type)
        found: type[PreTrainedModel] | None = getattr(transformers, str(named), None)
        if found is not None and found.config_class is config_class:
            return found
    return _class_beside(config_class)


def _class_beside(config_class: type[PretrainedConfig]) -> type[PreTrainedModel] | None:
    """A model class whose configuration this is, from the module beside the configuration's."""
    name = config_class.__module__.replace(".configuration_", ".modeling_")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        return None
    found: list[type[PreTrainedModel]] = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, PreTrainedModel)
        and getattr(value, "config_class", None) is config_class
        and not value.__name__.endswith("PreTrainedModel")
    ]
    order = ("ForCausalLM", "ForConditionalGeneration", "Model")
    found.sort(key=lambda value: [suffix not in value.__name__ for suffix in order])
    return found[0] if found else None
