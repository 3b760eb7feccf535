from __future__ import annotations

import json
from typing import Any

import pytest

from shardedmodel_runtime.errors import CheckpointError
from shardedmodel_runtime.formats.hf import parse_config
from shardedmodel_runtime.formats.quantisation import Quantisation


def parse(**fields: Any) -> Quantisation | None:
    config = {"model_type": "llama", "quantization_config": fields}
    return parse_config(json.dumps(config).encode()).quantisation


def compressed(*weights: dict[str, Any]) -> Quantisation | None:
    groups = {f"group_{number}": {"weights": each} for number, each in enumerate(weights)}
    return parse(quant_method="compressed-tensors", config_groups=groups)


def test_a_checkpoint_without_it_is_not_quantised() -> None:
    assert parse_config(b'{"model_type": "llama"}').quantisation is None


def test_gptq_says_bits_group_and_order() -> None:
    found = parse(quant_method="gptq", bits=4, group_size=128, desc_act=True)
    assert found == Quantisation("gptq", bits=4, group_size=128, act_order=True)


def test_a_group_of_minus_one_is_all_inputs() -> None:
    assert parse(quant_method="gptq", bits=8, group_size=-1) == Quantisation("gptq", bits=8)


def test_fp8_says_its_blocks() -> None:
    found = parse(quant_method="fp8", weight_block_size=[128, 64])
    assert found == Quantisation("fp8", block=(128, 64))


def test_compressed_tensors_says_it_in_groups() -> None:
    weights = {"num_bits": 4, "group_size": 32, "actorder": "group"}
    expected = Quantisation("compressed-tensors", bits=4, group_size=32, act_order=True)
    assert compressed(weights, weights) == expected


def test_a_nested_text_configuration_may_say_it() -> None:
    config = {
        "model_type": "x",
        "text_config": {"quantization_config": {"quant_method": "awq", "bits": 4}},
    }
    assert parse_config(json.dumps(config).encode()).quantisation == Quantisation("awq", bits=4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "has no quant_method"),
        ({"quant_method": 3}, "has no quant_method"),
        ({"quant_method": "gptq", "bits": "4"}, "bits: '4' is not a whole number"),
        ({"quant_method": "gptq", "bits": True}, "bits: True is not"),
        ({"quant_method": "gptq", "group_size": 2**30}, "group_size: 1073741824 is not"),
        ({"quant_method": "fp8", "weight_block_size": [1]}, "is not two numbers"),
        ({"quant_method": "fp8", "weight_block_size": [1, -7]}, "inputs: -7 is not"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse(**fields)


def test_weights_that_are_quantised_in_several_ways_are_refused() -> None:
    with pytest.raises(CheckpointError, match="in several ways"):
        compressed({"num_bits": 4}, {"num_bits": 8})
