"""The built-in rules against a model of every architecture, at the size of its published default.

The models are on the meta device: there are names and shapes as on disk, and no weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import pytest

from shardedmodel_runtime.checkpoint import CheckpointMetadata, SourceTensor
from shardedmodel_runtime.formats.dtypes import tensor_bytes
from shardedmodel_runtime.formats.hf import parse_config
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.families import FAMILIES

ODD = "the default configuration has experts of 1,407 features, which two ranks cannot share"

LEFT_OUT: Mapping[str, str] = {
    "deepseek_ocr2": ODD,
    "deepseek_ocr2_text": ODD,
    "deepseek_v2": ODD,
    "falcon": "its default configuration has 71 heads, which two ranks cannot share",
    "fast_vlm": "its image tower is timm's, which is not installed",
    "gemma3n": "its image tower is timm's, which is not installed",
    "gemma4_assistant": "transformers can make no model whose layers all share keys",
    "glmga": "transformers has no model of its own for it",
    "internlm3": "transformers has no model of its own for it",
    "iquestcoder": "transformers has no model of its own for it",
    "perception_lm": "its image tower is timm's, which is not installed",
    "pp_chart2table": "transformers has no model of its own for it",
    "qwen3_omni_moe": "its speech model has no valid default configuration",
    "t5_gemma_module": "it is one half of t5gemma",
}
"""Types that this cannot be tried with, and why."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def metadata_of(model_type: str) -> CheckpointMetadata:
    """What the headers of a checkpoint of this type say, one layer of each kind."""
    from tools.architectures.checkpoint_names import conversions
    from tools.architectures.instances import instance

    model = instance(model_type)
    assert model is not None
    tensors = {}
    for conversion in conversions(model):
        for pattern, shape in zip(conversion.tensors, conversion.shapes, strict=True):
            name = pattern.replace("*", "0")
            size = tensor_bytes("BF16", shape)
            tensors[name] = SourceTensor(name, "BF16", shape, "model.safetensors", 0, size)
    config = parse_config(model.config.to_json_string().encode())
    return CheckpointMetadata(config, (), (), tensors)


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name not in LEFT_OUT])
def test_the_rules_of_a_type_name_every_tensor_of_its_model(model_type: str) -> None:
    plan = WeightDistributor(Parallelism(2)).plan(metadata_of(model_type))
    assert plan.unmatched == ()
    assert any(cut.axes for cut in plan.cuts.values())


def test_what_is_left_out_is_known() -> None:
    assert set(LEFT_OUT) <= set(FAMILIES)
