"""A checkpoint of each family goes through plan, shard, reshard and unshard, by the commands."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from shardedmodel_runtime.cli import main
from tests.integration.runtime.reference.cases import BY_HAND, CARRIED, Case
from tests.integration.runtime.reference.shards import save_checkpoint

CASES = (*CARRIED, *BY_HAND)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command says with ``--json``."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each tensor of a checkpoint's folder."""
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return {
        name: hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_family_comes_back_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: Case
) -> None:
    save_checkpoint(case, tmp_path / "model")
    source, storage = (tmp_path / "model").as_uri(), (tmp_path / "layouts").as_uri()
    (tmp_path / "layouts").mkdir()
    assert answer(capsys, "plan", source, "--tensor", "2")
    cut = answer(capsys, "shard", source, storage, "--tensor", "2")
    layout = cut["manifestUri"].rpartition("/")[0]
    again = answer(capsys, "reshard", layout, storage, "--tensor", "4")
    other = again["manifestUri"].rpartition("/")[0]
    assert other != layout
    for path in Path(other.removeprefix("file://")).rglob("part-*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            assert list(opened.keys())
    answer(capsys, "unshard", other, str(tmp_path / "back"))
    assert digests(tmp_path / "back") == digests(tmp_path / "model")
