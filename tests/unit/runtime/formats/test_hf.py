from __future__ import annotations

import json
from typing import Any

import pytest

from shardedmodel_runtime.errors import CheckpointError, InvalidIndex
from shardedmodel_runtime.formats.hf import ModelConfig, check_index, parse_config, parse_index
from shardedmodel_runtime.formats.layers import LayerHeads


def config(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def index(weight_map: Any) -> bytes:
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()


def test_a_configuration_gives_what_planning_needs() -> None:
    data = config(model_type="llama", hidden_size=64, num_attention_heads=8, num_key_value_heads=4)
    assert parse_config(data) == ModelConfig("llama", 64, 8, 4, 8)


def test_without_key_value_heads_there_are_as_many_as_heads() -> None:
    assert parse_config(config(model_type="bert", num_attention_heads=12)).key_value_heads == 12


def test_an_explicit_head_size_wins_over_the_quotient() -> None:
    data = config(model_type="qwen3", hidden_size=64, num_attention_heads=8, head_dim=128)
    assert parse_config(data).head_dim == 128


def test_a_nested_text_configuration_answers_what_the_top_does_not() -> None:
    data = config(model_type="gemma3", text_config={"num_attention_heads": 8})
    assert parse_config(data).attention_heads == 8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "not a JSON object"),
        (b"{", "not valid JSON"),
        (config(hidden_size=1), "model_type is missing"),
        (config(model_type=7), "model_type 7 is not a word"),
        (config(model_type="x" * 129), "model_type 'x.*is not a word"),
        (config(model_type="a\nb"), "model_type 'a b' is not a word"),
        (b'{"model_type": "a", "model_type": "b"}', "stands twice"),
        (config(model_type="x", num_attention_heads="8"), "num_attention_heads"),
        (config(model_type="x", num_attention_heads=-8), "num_attention_heads"),
        (config(model_type="x", num_attention_heads=True), "num_attention_heads"),
        (config(model_type="x", num_attention_heads=0), "num_attention_heads: 0 is not"),
        (config(model_type="x", num_attention_heads=10**9), "number from 1 to 65536"),
        (config(model_type="x", hidden_size=2**40), "hidden_size"),
        (config(model_type="x", num_attention_heads=8, num_key_value_heads=0), "key_value_heads"),
        (config(model_type="x", num_attention_heads=8, num_key_value_heads=3), "does not divide"),
    ],
)
def test_an_unusable_configuration_is_refused_by_field(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_config(data)


def test_an_index_maps_tensors_to_files() -> None:
    assert parse_index(index({"a": "x.safetensors"})) == {"a": "x.safetensors"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "weight_map"),
        (b"nonsense", "not valid JSON"),
        (index({}), "weight_map"),
        (index([]), "weight_map"),
        (index({"a": "../secret.safetensors"}), "not the name"),
        (index({"a": "sub/x.safetensors"}), "not the name"),
        (index({"a": ".hidden.safetensors"}), "not the name"),
        (index({"a": "pytorch_model.bin"}), "not the name"),
        (index({"a": 3}), "not the name"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "stands twice"),
    ],
)
def test_an_unusable_index_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidIndex, match=message):
        parse_index(data)


@pytest.mark.parametrize(
    ("said", "found", "message"),
    [
        ({"a": "x", "b": "x"}, {"x": ["a"]}, "x has no tensor 'b'"),
        ({"a": "x"}, {"x": ["a", "b"]}, "'b' is missing from"),
        ({"a": "x"}, {"x": ["a"], "y": ["a"]}, "'a' is said to lie elsewhere"),
    ],
)
def test_an_index_must_match_its_files(
    said: dict[str, str], found: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(InvalidIndex, match=message):
        check_index(said, found)


KINDS = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    "fields",
    [
        {"per_layer_config": {"1": {"head_dim": 16, "num_key_value_heads": 2}}},
        {"layer_types": KINDS, "global_head_dim": 16, "num_global_key_value_heads": 2},
        {"text_config": {"per_layer_config": {"1": {"head_dim": 16, "num_key_value_heads": 2}}}},
    ],
)
def test_a_layer_may_have_heads_of_its_own(fields: dict[str, Any]) -> None:
    common = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
    found = parse_config(config(model_type="gemma4", **common, **fields))
    assert found.layers == (LayerHeads(1, 8, 2, 16),)


@pytest.mark.parametrize(
    ("model_type", "fields", "heads"),
    [
        ("mimo_v2_flash", {"hybrid_layer_pattern": [1, 0]}, (8, 8, 8)),
        ("mimo", {"layer_types": KINDS, "swa_num_key_value_heads": 2}, (8, 2, 8)),
        ("step3p7", {"layer_types": KINDS, "num_sliding_attention_heads": 12}, (12, 4, 8)),
        ("laguna", {"num_attention_heads_per_layer": [16, 8]}, (16, 4, 8)),
        (
            "step3p5",
            {
                "layer_types": KINDS,
                "attention_other_setting": {"num_attention_heads": 12, "num_attention_groups": 6},
            },
            (12, 6, 8),
        ),
    ],
)
def test_a_kind_of_layers_may_have_heads_of_its_own(
    model_type: str, fields: dict[str, Any], heads: tuple[int, int, int]
) -> None:
    common = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
    found = parse_config(config(model_type=model_type, **common, **fields))
    assert found.layers == (LayerHeads(0, *heads),)


def test_a_number_of_global_heads_that_is_not_used_says_nothing() -> None:
    fields = {"layer_types": KINDS, "num_global_key_value_heads": 2, "attention_k_eq_v": False}
    data = config(model_type="gemma4_text", num_attention_heads=8, head_dim=8, **fields)
    assert parse_config(data).layers == ()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"x": {}}, "per_layer_config: 'x' is not a layer's number"),
        ({"1": {"num_key_value_heads": 3}}, "3 does not divide num_attention_heads 8"),
        ({"1": {"num_attention_heads": "8"}}, "num_attention_heads: .* is not a whole number"),
    ],
)
def test_heads_of_a_layer_that_cannot_be_are_refused(own: dict[str, Any], message: str) -> None:
    data = config(model_type="x", num_attention_heads=8, per_layer_config=own)
    with pytest.raises(CheckpointError, match=message):
        parse_config(data)
