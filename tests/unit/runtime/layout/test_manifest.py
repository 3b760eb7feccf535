from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.errors import LayoutError, LayoutNotFound, StorageError
from shardedmodel_runtime.layout.manifest import Manifest, block_spans, read_manifest
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.storage.opening import open_store

BLOCK = 4096


def layout_object(key: str, ranks: list[int], tensor: str, shape: list[int]) -> dict[str, Any]:
    size = 4 * shape[0]
    return {
        "key": key,
        "ranks": ranks,
        "bytes": BLOCK + size,
        "sha256": "0" * 64,
        "blocks": ["0" * 32] * 2,
        "dataStart": BLOCK,
        "tensors": {tensor: {"shape": shape, "start": 0, "end": size, "ranges": [], "pad": 0}},
    }


def document() -> dict[str, Any]:
    """Two ranks, one cut tensor, one replicated."""
    return {
        "format": "shardedmodel.dev/layout",
        "version": 1,
        "layoutHash": "0123456789abcdef0123",
        "createdBy": "shardedmodel 0.1.0",
        "source": {"uri": "s3://models/m", "revision": "", "modelType": "llama", "objects": []},
        "parallelism": {"tensor": 2, "pipeline": 1, "expert": 1},
        "dtype": "keep",
        "planDigest": "sha256:00",
        "blockBytes": BLOCK,
        "blockAlgorithm": "xxh3-128",
        "tensors": {
            "w": {"dtype": "F32", "shape": [8], "strategy": "column", "dim": 0},
            "norm": {"dtype": "F32", "shape": [6], "strategy": "replicate", "dim": None},
        },
        "objects": [
            layout_object("common/part-00000.safetensors", [0, 1], "norm", [6]),
            layout_object("tp-00000-of-00002/part-00000.safetensors", [0], "w", [4]),
            layout_object("tp-00001-of-00002/part-00000.safetensors", [1], "w", [4]),
        ],
    }


def parse(fields: dict[str, Any]) -> Manifest:
    return Manifest.parse(json.dumps(fields).encode(), "s3://shards/manifest.json")


def test_it_is_written_as_it_was_read() -> None:
    manifest = parse(document())
    assert json.loads(manifest.to_bytes()) == document()
    assert Manifest.parse(manifest.to_bytes()) == manifest


def test_a_rank_needs_its_own_objects_and_the_common_ones() -> None:
    keys = [item.key for item in parse(document()).objects_of(1)]
    assert keys == ["tp-00001-of-00002/part-00000.safetensors", "common/part-00000.safetensors"]


def test_its_degrees_number_the_ranks() -> None:
    manifest = parse(document())
    assert manifest.degrees == Parallelism(2)
    assert manifest.degrees.world_size == manifest.world_size == 2


def test_sizes_add_up() -> None:
    manifest = parse(document())
    assert manifest.rank_bytes(0) == 2 * BLOCK + 16 + 24
    assert manifest.total_bytes == 3 * BLOCK + 16 + 16 + 24


def own(fields: dict[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = fields["objects"][1]
    return chosen


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d.update(version=2), "version: this release reads version 1"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.update(format="other"), "format"),
        (lambda d: d["parallelism"].update(tensor=0), "parallelism.tensor"),
        (lambda d: d["parallelism"].update(tensor=1), "names rank 1 of 1"),
        (lambda d: own(d).update(key="../../etc/passwd"), "leaves the layout"),
        (lambda d: own(d).update(key="/etc/passwd"), "leaves the layout"),
        (lambda d: own(d).update(key=d["objects"][0]["key"]), "same key"),
        (lambda d: own(d).update(ranks=[]), "ranks"),
        (lambda d: own(d).update(ranks=[1, 0]), "not ascending"),
        (lambda d: own(d).update(bytes=10**18), "its tensors end at"),
        (lambda d: own(d).update(blocks=["0" * 32]), "has 1 block checksums, not 2"),
        (lambda d: own(d).update(sha256="xyz"), "sha256"),
        (lambda d: own(d)["tensors"]["w"].update(start=4), "follows from the one before"),
        (lambda d: own(d)["tensors"]["w"].update(end=-4), "end"),
        (lambda d: own(d)["tensors"]["w"].update(shape=[5]), "takes 20 bytes"),
        (lambda d: own(d)["tensors"].update(v=own(d)["tensors"].pop("w")), "not in tensors"),
        (lambda d: d["tensors"]["w"].update(dtype="F7"), "dtype 'F7'"),
        (lambda d: d["objects"].pop(), "rank 1 holds 1 pieces"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(change: Change, complaint: str) -> None:
    fields = document()
    change(fields)
    with pytest.raises(LayoutError, match=complaint) as caught:
        parse(fields)
    assert caught.value.message.startswith("s3://shards/manifest.json: ")


def test_a_tensor_held_twice_is_refused() -> None:
    fields = document()
    fields["objects"][1]["ranks"] = [0, 1]
    with pytest.raises(LayoutError, match=r"rank 1 holds 3 pieces \(2 distinct\)"):
        parse(fields)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff"])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(LayoutError):
        Manifest.parse(data)


def test_a_layout_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    with (
        open_store(tmp_path.as_uri()) as store,
        pytest.raises(LayoutNotFound, match="holds no finished layout"),
    ):
        read_manifest(store)


def test_a_manifest_is_not_read_without_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardedmodel_runtime.layout.manifest.MANIFEST_BYTES_LIMIT", 10)
    (tmp_path / MANIFEST_KEY).write_bytes(b" " * 11)
    with open_store(tmp_path.as_uri()) as store, pytest.raises(StorageError, match="at most 10"):
        read_manifest(store)


def test_blocks_span_the_object() -> None:
    assert block_spans(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert block_spans(8, 4) == [(0, 4), (4, 8)]
