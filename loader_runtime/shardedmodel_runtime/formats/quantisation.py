"""``quantization_config`` of ``config.json``: how a checkpoint's weights are packed and scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardedmodel_runtime.errors import CheckpointError, excerpt

MAX_GROUP = 2**24
"""Largest group or block: as wide as the widest hidden state that is read at all."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What a plan has to know of it; 0 and None where the configuration does not say.

    Args:
        method: ``gptq``, ``awq``, ``fp8``, ``compressed-tensors`` or another's name.
        bits: of one packed weight.
        group_size: inputs that share a scale; 0: all of them.
        act_order: inputs are ordered by activation (GPTQ's ``desc_act``): any input may be of any
            group.
        block: outputs and inputs that share a scale, where scales are for blocks.
    """

    method: str
    bits: int = 0
    group_size: int = 0
    act_order: bool = False
    block: tuple[int, int] | None = None


def parse_quantisation(fields: Mapping[str, Any]) -> Quantisation | None:
    """Read ``quantization_config`` of a configuration; None where there is none.

    Raises:
        CheckpointError: it is not an object, or a number in it cannot be.
    """
    config = fields.get("quantization_config")
    if config is None:
        return None
    if not isinstance(config, dict) or not isinstance(config.get("quant_method"), str):
        raise CheckpointError("config.json: quantization_config has no quant_method")
    weights = _compressed_weights(config)
    return Quantisation(
        method=config["quant_method"],
        bits=_number(config, "bits") or _number(weights, "num_bits"),
        group_size=_number(config, "group_size") or _number(weights, "group_size"),
        act_order=bool(config.get("desc_act")) or weights.get("actorder") in ("group", True),
        block=_block(config.get("weight_block_size") or weights.get("block_structure")),
    )


def _compressed_weights(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What compressed-tensors says of weights; its groups differ in other things than that."""
    groups = config.get("config_groups")
    found = [
        group["weights"]
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict) and isinstance(group.get("weights"), dict)
    ]
    if any(weights != found[0] for weights in found):
        raise CheckpointError(
            "config.json: quantization_config.config_groups quantise weights in several ways, "
            "which is not supported"
        )
    return found[0] if found else {}


def _number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if value in (None, -1):
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_GROUP:
        raise CheckpointError(
            f"config.json: quantization_config.{name}: {excerpt(repr(value))} is not a whole "
            f"number from 1 to {MAX_GROUP}"
        )
    return value


def _block(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise CheckpointError(
            f"config.json: quantization_config: block {excerpt(repr(value))} is not two numbers"
        )
    sides = {"outputs": value[0], "inputs": value[1]}
    outputs, inputs = _number(sides, "outputs"), _number(sides, "inputs")
    return (outputs, inputs) if outputs and inputs else None
