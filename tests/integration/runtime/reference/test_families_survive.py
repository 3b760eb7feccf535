"""A checkpoint of each family goes through plan, shard, reshard and unshard, by the commands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shardedmodel_runtime.cli import main
from shardedmodel_runtime.layout.manifest import read_manifest
from shardedmodel_runtime.storage.opening import open_store
from tests.integration.runtime.reference.cases import BY_HAND, CARRIED, SMALL, Case
from tests.integration.runtime.reference.shards import Tensors, save_checkpoint

GROUP = 16
"""Inputs of one GPTQ group: what one of four ranks holds of ``o_proj``."""
BLOCK = 8
"""Edge of a scaled block: one of four ranks holds 8 outputs of ``k_proj``."""
WAYS = {
    "tensor 2, then 4": (("--tensor", "2"), ("--tensor", "4")),
    "tensor 2 and pipeline 2, then 1": (("--tensor", "2", "--pipeline", "2"), ("--tensor", "1")),
}
"""What a checkpoint is cut for, and what its layout is then cut for."""


def packed(weight: torch.Tensor) -> Tensors:
    """What 4-bit GPTQ has in place of a weight; the bits are random."""
    outputs, inputs = weight.shape
    groups = inputs // GROUP
    low, high = -(2**31), 2**31
    return {
        "qweight": torch.randint(low, high, (inputs // 8, outputs), dtype=torch.int32),
        "qzeros": torch.randint(low, high, (groups, outputs // 8), dtype=torch.int32),
        "scales": torch.randn(groups, outputs, dtype=torch.float16),
        "g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
    }


def block_scaled(weight: torch.Tensor) -> Tensors:
    """A weight in 8-bit floats and the scale of each of its blocks."""
    outputs, inputs = weight.shape
    return {
        "weight": weight.to(torch.float8_e4m3fn),
        "weight_scale_inv": torch.randn(outputs // BLOCK, inputs // BLOCK),
    }


Quantise = Callable[[torch.Tensor], Tensors]
QUANTISED: Mapping[str, tuple[Quantise, dict[str, Any]]] = {
    "gptq": (packed, {"quant_method": "gptq", "bits": 4, "group_size": GROUP}),
    "fp8": (block_scaled, {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}),
}
CASES = (*CARRIED, *BY_HAND, *(Case("llama", SMALL, variant=method) for method in QUANTISED))


def quantise(folder: Path, method: str) -> None:
    """Quantise every projection of a saved checkpoint in place."""
    replace, described = QUANTISED[method]
    tensors: Tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        module, projection, _ = name.partition("_proj.")
        if projection:
            tensors |= {f"{module}_proj.{kind}": new for kind, new in replace(tensor).items()}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": described}))


@pytest.fixture(scope="module", params=CASES, ids=[case.name for case in CASES])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a case's checkpoint, made once for all ways."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(request.param, folder)
    if request.param.variant in QUANTISED:
        quantise(folder, request.param.variant)
    return folder


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command says with ``--json``."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each tensor of a checkpoint's folder."""
    tensors: Tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return {
        name: hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def opened_names(layout: str) -> set[str]:
    """Names of the tensors in all of a layout's rank files, each opened by safetensors."""
    with open_store(layout) as store:
        manifest = read_manifest(store)
    names: set[str] = set()
    for item in manifest.objects:
        with safe_open(Path(layout.removeprefix("file://")) / item.key, framework="pt") as opened:
            names.update(opened.keys())
    return names


@pytest.mark.parametrize(("first", "second"), WAYS.values(), ids=WAYS)
def test_a_family_comes_back_bit_for_bit(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    first: tuple[str, ...],
    second: tuple[str, ...],
) -> None:
    source, storage = checkpoint.as_uri(), (tmp_path / "layouts").as_uri()
    (tmp_path / "layouts").mkdir()
    expected = digests(checkpoint)
    assert answer(capsys, "plan", source, *first)
    cut = answer(capsys, "shard", source, storage, *first)
    layout = cut["manifestUri"].rpartition("/")[0]
    again = answer(capsys, "reshard", layout, storage, *second)
    other = again["manifestUri"].rpartition("/")[0]
    assert other != layout
    assert opened_names(layout) == opened_names(other) == expected.keys()
    answer(capsys, "unshard", other, str(tmp_path / "back"))
    assert digests(tmp_path / "back") == expected
