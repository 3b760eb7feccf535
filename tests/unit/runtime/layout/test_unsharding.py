from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from shardedmodel_runtime.errors import ConfigurationError, SourceChanged
from shardedmodel_runtime.layout.unsharding import unshard
from shardedmodel_runtime.layout.verification import verify_layout
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.layout import Checkpoint, make_checkpoint, shard


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "source", "bert")


def unshard_to(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path, limit: int = 10**9
) -> list[str]:
    _, manifest, uri = shard(checkpoint.uri, tmp_path.as_uri(), 2)
    with open_store(uri) as store:
        digests = verify_layout(store, manifest).digests
        files = unshard(manifest, store, digests, folder, max_file_bytes=limit)
    return [file.name for file in files]


def tensors_of(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            found |= {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    return found


def test_a_small_checkpoint_comes_back_as_one_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    assert unshard_to(tmp_path / "out", checkpoint, tmp_path) == [
        "config.json",
        "model.safetensors",
    ]
    assert tensors_of(tmp_path / "out") == checkpoint.tensors


def test_a_large_one_comes_back_in_files_with_an_index(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    limit = checkpoint.tensor_bytes // 2
    names = unshard_to(tmp_path / "out", checkpoint, tmp_path, limit)
    assert names[:2] == ["config.json", "model-00001-of-00003.safetensors"]
    assert tensors_of(tmp_path / "out") == checkpoint.tensors
    index = json.loads((tmp_path / "out" / names[-1]).read_text())
    assert index["metadata"]["total_size"] == checkpoint.tensor_bytes
    assert index["weight_map"].keys() == checkpoint.tensors.keys()


def test_configuration_and_tokenizer_come_back_as_they_were(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    source = Path(checkpoint.uri.removeprefix("file://"))
    (source / "tokenizer.json").write_bytes(b'{"version": "1.0"}\n')
    (source / "modeling.py").write_text("print('code is not kept')")
    assert unshard_to(tmp_path / "out", checkpoint, tmp_path)[:2] == [
        "config.json",
        "tokenizer.json",
    ]
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


def test_an_empty_folder_is_taken(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "out").mkdir()
    unshard_to(tmp_path / "out", checkpoint, tmp_path)
    assert tensors_of(tmp_path / "out") == checkpoint.tensors


def test_nothing_is_overwritten(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigurationError, match="exists and is not empty"):
        unshard_to(tmp_path / "out", checkpoint, tmp_path)


def test_a_failure_leaves_nothing(tmp_path: Path, checkpoint: Checkpoint) -> None:
    _, manifest, uri = shard(checkpoint.uri, (tmp_path / "shards").as_uri(), 2)
    (tmp_path / "new").mkdir()
    digests = {item.key: "stat:0-0" for item in manifest.objects}
    with open_store(uri) as store, pytest.raises(SourceChanged):
        unshard(manifest, store, digests, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []
