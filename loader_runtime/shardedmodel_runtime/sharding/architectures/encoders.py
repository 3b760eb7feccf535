"""Plans by hand for encoders, encoder-decoders and image towers without one in ``transformers``.

Source of each: the module of the same name in transformers 5, with the names that its checkpoints
have on disk.
"""

from __future__ import annotations

from collections.abc import Mapping

from shardedmodel_runtime.sharding.architectures.globs import (
    attention,
    embedding,
    linear,
    projections,
    whole,
)
from shardedmodel_runtime.sharding.rules import Rule

_FEED_FORWARD = (
    *linear("attention.output.dense", "row"),
    *linear("intermediate.dense", "column"),
    *linear("layer.*.output.dense", "row"),
)

_BERT = (
    *projections("attention.self", "query", "key", "value"),
    *projections("attention.self", "query_proj", "key_proj", "value_proj"),
    *_FEED_FORWARD,
    *embedding("embeddings.word_embeddings"),
    *embedding("predictions.decoder", "lm_head.decoder", "generator_lm_head"),
    Rule("*predictions.bias", "vocab"),
    Rule("*lm_head.bias", "vocab"),
    *whole(
        "*embeddings.*",
        "*embeddings_project.*",
        "*predictions.transform.*",
        "*_predictions.*",
        "*lm_head.dense.*",
        "*seq_relationship.*",
    ),
)

_DISTILBERT = (
    *attention(".attention", "q_lin", "k_lin", "v_lin", "out_lin"),
    *linear(".ffn.lin1", "column"),
    *linear(".ffn.lin2", "row"),
    *embedding("embeddings.word_embeddings", "vocab_projector"),
    *whole("*vocab_transform.*"),
)

_ALBERT = (
    *attention(".attention", "query", "key", "value", "dense"),
    *linear(".ffn", "column"),
    *linear(".ffn_output", "row"),
    *embedding("embeddings.word_embeddings", "predictions.decoder"),
    Rule("*predictions.bias", "vocab"),
    *whole("*embedding_hidden_mapping_in.*", "*predictions.dense.*"),
)

_T5 = (
    *attention("Attention", "q", "k", "v", "o"),
    # One number for every bucket of distances and every head.
    Rule("*.relative_attention_bias.weight", "heads", parts=("query",), transposed=True),
    *linear(".DenseReluDense.wi", "column"),
    *linear(".DenseReluDense.wi_0", "column"),
    *linear(".DenseReluDense.wi_1", "column"),
    *linear(".DenseReluDense.wo", "row"),
    *embedding("shared", "embed_tokens", "lm_head"),
)

_BART = (
    *attention("_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    *linear(".fc1", "column"),
    *linear(".fc2", "row"),
    *embedding("shared", "embed_tokens", "lm_head", "proj_out"),
    *whole(
        "*embed_positions.weight",
        "*final_logits_bias",
        "*encoder.conv[12].*",
        "*classification_head.*",
    ),
)

_VIT = (
    *projections("attention.attention", "query", "key", "value"),
    *_FEED_FORWARD,
    *whole("*embeddings.*", "*_token", "*decoder.*"),
)

_CLIP = (
    *attention("text_model.*.self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    # The image tower has its own number of heads, which the text's configuration does not tell.
    *linear("vision_model.encoder.*.self_attn.q_proj", "column"),
    *linear("vision_model.encoder.*.self_attn.k_proj", "column"),
    *linear("vision_model.encoder.*.self_attn.v_proj", "column"),
    *linear("vision_model.encoder.*.self_attn.out_proj", "row"),
    *linear("encoder.*.mlp.fc1", "column"),
    *linear("encoder.*.mlp.fc2", "row"),
    *embedding("token_embedding"),
    *whole(
        "*embeddings.*",
        "*layrnorm.*",
        "*_projection.weight",
        "*logit_scale",
        "*logit_bias",
        "*_model.head.*",
    ),
)

_T5GEMMA = (
    *attention("_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    *linear(".mlp.gate_proj", "column"),
    *linear(".mlp.up_proj", "column"),
    *linear(".mlp.down_proj", "row"),
    *embedding("embed_tokens", "lm_head.out_proj"),
)

_T5GEMMA2 = (
    *whole("*vision_tower.*", "*multi_modal_projector.*", "*embed_tokens.eoi_embedding"),
    *_T5GEMMA,
)

ENCODERS: Mapping[str, tuple[Rule, ...]] = {
    "albert": _ALBERT,
    "bart": _BART,
    "bert": _BERT,
    "camembert": _BERT,
    "clip": _CLIP,
    "deberta-v2": _BERT,
    "deit": _VIT,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "mbart": _BART,
    "mt5": _T5,
    "roberta": _BERT,
    "siglip": _CLIP,
    "t5": _T5,
    "t5gemma": _T5GEMMA,
    "t5gemma2": _T5GEMMA2,
    "umt5": _T5,
    "vit": _VIT,
    "whisper": _BART,
    "xlm-roberta": _BERT,
}
"""Rules by ``model_type``, before what is whole in every model."""
