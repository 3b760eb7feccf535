from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shardedmodel_runtime.checkpoint import FIRST_READ_BYTES, CheckpointMetadata
from shardedmodel_runtime.errors import (
    InvalidIndex,
    InvalidSafetensors,
    NotFound,
    PickleCheckpoint,
)
from shardedmodel_runtime.formats.safetensors import build_header
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.checkpoint import (
    MemoryStore,
    llama_config,
    llama_shapes,
    random_bits,
    safetensors_bytes,
    write_checkpoint,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def read(folder: Path) -> CheckpointMetadata:
    with open_store(folder.as_uri()) as store:
        return CheckpointMetadata.read(store)


def write_llama(folder: Path, files: int = 1) -> None:
    config = llama_config()
    write_checkpoint(folder, config, llama_shapes(config), files=files)


@pytest.mark.parametrize("files", [1, 3])
def test_every_tensor_is_found_where_its_bytes_lie(folder: Path, files: int) -> None:
    config = llama_config()
    tensors = write_checkpoint(folder, config, llama_shapes(config), files=files)
    metadata = read(folder)
    found = {
        name: (folder / tensor.key).read_bytes()[tensor.start : tensor.end]
        for name, tensor in metadata.tensors.items()
    }
    assert found == {name: array.tobytes() for name, (_, array) in tensors.items()}


def test_the_total_is_the_bytes_of_all_tensors(folder: Path) -> None:
    config = llama_config()
    tensors = write_checkpoint(folder, config, llama_shapes(config), files=2)
    assert read(folder).total_bytes == sum(array.nbytes for _, array in tensors.values())


def write_long_header(folder: Path) -> list[str]:
    """A file of a few bytes whose header does not fit the first read; gives its names."""
    names = [f"{'x' * 1000}.{number}" for number in range(FIRST_READ_BYTES // 1000)]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(llama_config()))
    header = build_header((name, "U8", (1,)) for name in names)
    (folder / "model.safetensors").write_bytes(header + bytes(len(names)))
    return names


def requests_of(folder: Path) -> list[tuple[str, str]]:
    store = MemoryStore.of_folder(folder)
    CheckpointMetadata.read(store)
    return sorted(store.log)


def test_a_single_file_costs_three_requests(folder: Path) -> None:
    write_llama(folder)
    keys = ["config.json", "model.safetensors", "model.safetensors.index.json"]
    assert requests_of(folder) == [("read_head", key) for key in keys]


def test_an_index_and_each_file_of_it_cost_one_request(folder: Path) -> None:
    write_llama(folder, files=5)
    files = [f"model-{number:05d}-of-00005.safetensors" for number in range(1, 6)]
    keys = ["config.json", *files, "model.safetensors.index.json"]
    assert requests_of(folder) == [("read_head", key) for key in keys]


def test_files_without_an_index_cost_a_listing_and_two_requests_for_what_is_not_there(
    folder: Path,
) -> None:
    write_llama(folder, files=3)
    (folder / "model.safetensors.index.json").unlink()
    operations = Counter(operation for operation, _ in requests_of(folder))
    assert operations == {"read_head": 1 + 2 + 3, "list": 1}


def test_an_unusually_long_header_costs_one_request_more(folder: Path) -> None:
    write_long_header(folder)
    operations = [op for op, key in requests_of(folder) if key == "model.safetensors"]
    assert operations == ["read_head", "read_range"]


def test_weights_are_not_read(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(llama_config()))
    weight = {"w": ("F32", np.zeros((2048, 2048), np.float32))}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(weight))
    with open_store(folder.as_uri()) as store:
        CheckpointMetadata.read(store)
        assert store.bytes_read <= FIRST_READ_BYTES + 4096


def test_a_header_longer_than_the_first_read_is_read_whole(folder: Path) -> None:
    names = write_long_header(folder)
    assert list(read(folder).tensors) == names


def test_several_files_without_an_index_are_one_checkpoint(folder: Path) -> None:
    write_llama(folder, files=3)
    (folder / "model.safetensors.index.json").unlink()
    assert len(read(folder).objects) == 3


def test_the_digests_cover_configuration_index_and_files(folder: Path) -> None:
    write_llama(folder, files=2)
    assert read(folder).digests().keys() == {path.name for path in folder.iterdir()}


def test_a_changed_file_changes_its_digest(folder: Path) -> None:
    write_llama(folder)
    before = read(folder).digests()
    config = llama_config(hidden_size=128)
    write_checkpoint(folder, config, llama_shapes(config))
    assert read(folder).digests()["model.safetensors"] != before["model.safetensors"]


def test_what_is_serialised_comes_back_equal(folder: Path) -> None:
    write_llama(folder, files=2)
    metadata = read(folder)
    assert CheckpointMetadata.from_json(metadata.to_json()) == metadata


def test_a_folder_without_weights_is_not_found(folder: Path) -> None:
    write_llama(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFound, match=r"holds no \.safetensors file"):
        read(folder)


def test_a_folder_without_configuration_is_not_found(folder: Path) -> None:
    write_llama(folder)
    (folder / "config.json").unlink()
    with pytest.raises(NotFound, match=r"config\.json"):
        read(folder)


def test_pickles_are_never_read(folder: Path) -> None:
    write_llama(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PickleCheckpoint, match="convert the checkpoint to safetensors"):
        read(folder)


def test_an_index_that_names_a_missing_file_is_refused(folder: Path) -> None:
    write_llama(folder, files=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InvalidIndex, match="model-00002-of-00002"):
        read(folder)


def test_a_tensor_in_two_files_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(llama_config()))
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(safetensors_bytes({"w": random_bits("F32", (2,))}))
    with pytest.raises(InvalidSafetensors, match=r"a\.safetensors and b\.safetensors"):
        read(folder)


def test_a_truncated_file_is_refused_by_its_name(folder: Path) -> None:
    write_llama(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidSafetensors, match=r"model\.safetensors.*truncated"):
        read(folder)


def test_a_tensor_that_the_index_forgets_is_refused(folder: Path) -> None:
    write_llama(folder, files=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["lm_head.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(InvalidIndex, match=r"'lm_head\.weight' is missing from"):
        read(folder)


def test_a_tensor_in_two_files_of_an_index_is_refused(folder: Path) -> None:
    write_llama(folder, files=2)
    weight = random_bits("F32", (64,))
    (folder / "extra.safetensors").write_bytes(
        safetensors_bytes({"extra.weight": weight, "model.norm.weight": weight})
    )
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["extra.weight"] = "extra.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(InvalidIndex, match=r"'model\.norm\.weight' is said to lie elsewhere"):
        read(folder)


def test_an_empty_file_is_refused_by_its_name(folder: Path) -> None:
    write_llama(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidSafetensors, match=r"model\.safetensors: 0 bytes are too few"):
        read(folder)
