"""Layouts of several kinds of parallelism at once, from files to files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.recombine import recombine_layout
from shardedmodel_runtime.layout.unsharding import unshard
from shardedmodel_runtime.layout.verification import verify_layout
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.checkpoint import MOE_RULES
from tests.builders.layout import (
    Checkpoint,
    held_by_ranks,
    make_checkpoint,
    recombine_ranks,
    shard,
)

DEGREES = [
    Parallelism(1, 1, 1),
    Parallelism(2, 1, 2),
    Parallelism(2, 2, 1),
    Parallelism(2, 3, 2),
    Parallelism(8, 4, 4),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("source"), "moe")


def cut(
    checkpoint: Checkpoint, folder: Path, degrees: Parallelism, dtype: str = "keep"
) -> tuple[Manifest, str]:
    _, manifest, uri = shard(checkpoint.uri, folder.as_uri(), degrees, rules=MOE_RULES, dtype=dtype)
    return manifest, uri


@pytest.mark.parametrize("degrees", DEGREES, ids=str)
def test_a_checkpoint_comes_back_from_a_layout(
    tmp_path: Path, checkpoint: Checkpoint, degrees: Parallelism
) -> None:
    manifest, uri = cut(checkpoint, tmp_path, degrees)
    with open_store(uri) as store:
        verified = verify_layout(store, manifest)
        verified.raise_if_broken()
        tensors = dict(recombine_layout(manifest, store, verified.digests))
    assert tensors == checkpoint.tensors
    held = held_by_ranks(manifest, Path(uri.removeprefix("file://")))
    assert recombine_ranks(manifest, held) == checkpoint.tensors


def test_folders_say_which_ranks_hold_what_is_in_them(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    manifest, _ = cut(checkpoint, tmp_path, Parallelism(2, 2, 2))
    found = {item.key.split("/")[0]: item.ranks for item in manifest.objects}
    # Of rank 5 (tensor 1, expert 0, stage 1): its experts, attention, norms and the last norm.
    assert {folder: ranks for folder, ranks in found.items() if 5 in ranks} == {
        "tp-00001-of-00002.pp-00001-of-00002.ep-00000-of-00002": [5],
        "tp-00001-of-00002.pp-00001-of-00002": [5, 7],
        "pp-00001-of-00002": [4, 5, 6, 7],
    }


def test_each_byte_of_a_stage_is_stored_once(tmp_path: Path, checkpoint: Checkpoint) -> None:
    manifest, _ = cut(checkpoint, tmp_path, Parallelism(2, 2, 2))
    stored = sum(item.bytes - item.data_start for item in manifest.objects)
    pads = 2 * (384 - 320) * 64 * 4  # vocabularies of 320 rows, padded to 384
    assert stored <= checkpoint.tensor_bytes + pads


def test_a_cast_layout_is_half_as_large_and_unshards_in_its_new_dtype(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    manifest, uri = cut(checkpoint, tmp_path, Parallelism(2, 1, 2), "float16")
    assert manifest.dtype == "float16"
    with open_store(uri) as store:
        digests = verify_layout(store, manifest).digests
        unshard(manifest, store, digests, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        for name, data in checkpoint.tensors.items():
            with np.errstate(all="ignore"):
                expected = np.frombuffer(data, np.float32).astype(np.float16)
            np.testing.assert_array_equal(file.get_tensor(name).ravel(), expected)


def test_the_manifest_says_what_was_cast(tmp_path: Path, checkpoint: Checkpoint) -> None:
    manifest, _ = cut(checkpoint, tmp_path, Parallelism(2), "bfloat16")
    document = json.loads(manifest.to_bytes())
    assert {(one["dtype"], one["castFrom"]) for one in document["cuts"]} == {("BF16", "F32")}
