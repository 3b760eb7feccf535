"""Layers that have other numbers or sizes of heads than ``config.json`` says of the whole model.

Models mix layers of sliding and of full attention. transformers 5 writes what differs under
``per_layer_config``, by the number of the layer; published configurations name the kinds of layers
in a list and say beside it what one kind has: ``num_global_key_value_heads`` (Gemma 4),
``swa_num_key_value_heads`` (MiMo), ``attention_other_setting`` (Step 3.5), or a number for each
layer (Laguna).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from shardedmodel_runtime.errors import CheckpointError, excerpt

MAX_LAYERS = 65536
"""No published model has a thousand layers."""

FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of layers as ``layer_types`` names them."""

Overrides = Mapping[str, Any]
"""What a layer has of its own: ``num_attention_heads`` and so on, as the configuration says it."""


class LayerHeads(NamedTuple):
    """The heads of one layer that differ from the model's."""

    layer: int
    attention_heads: int
    key_value_heads: int
    head_dim: int


def overrides_in(sources: Iterable[Mapping[str, Any]]) -> dict[int, Overrides]:
    """What layers have of their own, by the first of some configurations that says so.

    Raises:
        CheckpointError: it says so for what is no layer.
    """
    for fields in sources:
        for found in (_numbered(fields), _counted(fields), _by_kind(fields)):
            if found:
                return found
    return {}


def _numbered(fields: Mapping[str, Any]) -> dict[int, Overrides]:
    said = fields.get("per_layer_config")
    if not isinstance(said, dict):
        return {}
    return {_layer(name): own for name, own in said.items() if isinstance(own, dict)}


def _counted(fields: Mapping[str, Any]) -> dict[int, Overrides]:
    said = fields.get("num_attention_heads_per_layer")
    if not isinstance(said, list):
        return {}
    return {layer: {"num_attention_heads": count} for layer, count in enumerate(said)}


def _by_kind(fields: Mapping[str, Any]) -> dict[int, Overrides]:
    own = {FULL: _full(fields), SLIDING: _sliding(fields)}
    kinds = fields.get("layer_types") or _pattern(fields)
    if not isinstance(kinds, list):
        return {}
    return {layer: own[kind] for layer, kind in enumerate(kinds) if kind in (FULL, SLIDING)}


def _pattern(fields: Mapping[str, Any]) -> list[str]:
    """The kinds of layers where they are numbers, 1 for sliding (MiMo)."""
    said = fields.get("hybrid_layer_pattern")
    return [SLIDING if kind == 1 else FULL for kind in said] if isinstance(said, list) else []


def _full(fields: Mapping[str, Any]) -> Overrides:
    own = {"head_dim": fields.get("global_head_dim")}
    # Gemma 4 keeps the number in configurations of models that do not use it.
    if fields.get("attention_k_eq_v", True):
        own["num_key_value_heads"] = fields.get("num_global_key_value_heads")
    return own


def _sliding(fields: Mapping[str, Any]) -> Overrides:
    other = fields.get("attention_other_setting")
    own = {
        "num_attention_heads": fields.get("swa_num_attention_heads"),
        "num_key_value_heads": fields.get("swa_num_key_value_heads"),
        "head_dim": fields.get("swa_head_dim"),
    }
    if fields.get("num_sliding_attention_heads") is not None:
        own["num_attention_heads"] = fields["num_sliding_attention_heads"]
    elif isinstance(other, dict):
        own["num_attention_heads"] = other.get("num_attention_heads")
        own["num_key_value_heads"] = other.get("num_attention_groups")
        own["head_dim"] = other.get("head_dim")
    shared = fields.get("num_key_value_heads")
    if (
        fields.get("model_type") == "mimo_v2_flash"
        and own["num_key_value_heads"] is None
        and isinstance(shared, int)
    ):
        own["num_key_value_heads"] = 2 * shared  # MiMoV2FlashAttention of transformers 5
    return own


def _layer(name: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) < 6 and int(name) < MAX_LAYERS):
        raise CheckpointError(
            f"config.json: per_layer_config: {excerpt(name)!r} is not a layer's number"
        )
    return int(name)
