from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shardedmodel_runtime.errors import (
    ChecksumMismatch,
    ConfigurationError,
    LayoutError,
    LayoutNotFound,
    Unavailable,
)
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader, load
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.reading import Reading
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.rank_layout import BLOCK_BYTES, Layout, raw, small_model, write_layout


def config(layout: Layout, rank: int = 0, **values: Any) -> ModelLoadConfig:
    world_size = layout.manifest.world_size
    return ModelLoadConfig(layout=layout.uri, world_size=world_size, rank=rank, **values)


class FlakyStore(LocalStore):
    """Spoils the first byte of every range the first ``spoiled`` times that it is read."""

    def __init__(self, layout: Layout, spoiled: int) -> None:
        super().__init__(parse_uri(layout.uri))
        self._spoiled = spoiled
        self._reads: dict[tuple[str, int], int] = {}

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        super().read_range(key, start, into, digest=digest, reading=reading)
        self._reads[key, start] = self._reads.get((key, start), 0) + 1
        if self._reads[key, start] <= self._spoiled:
            into[0] ^= 0xFF


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_rank_gets_its_tensors_bit_for_bit(tmp_path: Path, world_size: int) -> None:
    layout = write_layout(tmp_path, world_size)
    for rank, expected in enumerate(layout.expected):
        state_dict = load(config(layout, rank)).state_dict
        assert {name: raw(tensor) for name, tensor in state_dict.items()} == {
            name: raw(tensor) for name, tensor in expected.items()
        }


def test_tensors_have_the_dtypes_and_shapes_of_the_rank(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2)
    loaded = load(config(layout)).state_dict
    assert {name: (t.dtype, t.shape) for name, t in loaded.items()} == {
        name: (t.dtype, t.shape) for name, t in layout.expected[0].items()
    }


def test_tensors_of_an_object_share_one_allocation(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2)
    loaded = load(config(layout)).state_dict
    weight, bias = loaded["column.weight"], loaded["column.bias"]
    assert weight.untyped_storage().data_ptr() == bias.untyped_storage().data_ptr()


@pytest.mark.parametrize("map_files", [True, False])
def test_tensors_are_exact_whether_files_are_mapped_or_copied(
    tmp_path: Path, map_files: bool
) -> None:
    layout = write_layout(tmp_path, 2)
    loaded = load(config(layout, map_files=map_files)).state_dict
    assert {name: raw(tensor) for name, tensor in loaded.items()} == {
        name: raw(tensor) for name, tensor in layout.expected[0].items()
    }


@pytest.mark.parametrize("map_files", [True, False])
def test_a_tensor_that_is_written_to_leaves_the_layout_as_it_is(
    tmp_path: Path, map_files: bool
) -> None:
    layout = write_layout(tmp_path, 2)
    before = layout.object_path(0).read_bytes()
    for tensor in load(config(layout, map_files=map_files)).state_dict.values():
        tensor.zero_()
    assert layout.object_path(0).read_bytes() == before


def test_a_second_load_counts_from_nothing(tmp_path: Path) -> None:
    loader = DistributedCheckpointLoader(config(write_layout(tmp_path, 2)))
    loader.load()
    report = loader.load().report
    assert loader.progress.bytes_done == report.bytes == report.bytes_read


def test_a_rank_reads_exactly_the_bytes_of_its_objects(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2)
    report = load(config(layout, 1)).report
    assert (report.bytes_read, report.bytes, report.retries) == (
        layout.manifest.rank_bytes(1),
        layout.manifest.rank_bytes(1),
        0,
    )


def test_a_larger_range_reads_several_blocks_in_one_request(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 1, small_model(256))
    store = LocalStore(parse_uri(layout.uri))
    whole = config(layout, range_bytes=1024 * BLOCK_BYTES)
    DistributedCheckpointLoader(whole, store=store).load(layout.manifest)
    assert store.requests == len(layout.manifest.objects)


def test_a_range_is_never_smaller_than_a_block(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 1)
    store = LocalStore(parse_uri(layout.uri))
    DistributedCheckpointLoader(config(layout, range_bytes=1), store=store).load(layout.manifest)
    assert store.requests == sum(len(item.blocks) for item in layout.manifest.objects)


def test_a_block_spoiled_on_the_way_is_read_again(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 1)
    copied = config(layout, map_files=False)
    loader = DistributedCheckpointLoader(copied, store=FlakyStore(layout, spoiled=2))
    state_dict = loader.load(layout.manifest).state_dict
    assert raw(state_dict["norm.weight"]) == raw(layout.expected[0]["norm.weight"])


def test_repeated_blocks_count_as_retries_and_as_bytes_read(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 1)
    one_block = config(layout, range_bytes=1, map_files=False)
    loader = DistributedCheckpointLoader(one_block, store=FlakyStore(layout, spoiled=1))
    report = loader.load(layout.manifest).report
    blocks = sum(len(item.blocks) for item in layout.manifest.objects)
    assert (report.retries, report.bytes_read) == (blocks, 2 * report.bytes)


def test_a_block_that_is_wrong_in_the_store_is_named(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 1)
    path = layout.object_path(0)
    data = bytearray(path.read_bytes())
    data[BLOCK_BYTES + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumMismatch, match=r"part-00000\.safetensors: bytes \[4096, 8192\)"):
        load(config(layout))


def test_without_verification_a_wrong_block_is_taken_as_it_is(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 1)
    path = layout.object_path(0)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert load(config(layout, verify=False)).report.retries == 0


@pytest.mark.parametrize("map_files", [True, False])
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: os.truncate(path, BLOCK_BYTES + 1)])
def test_a_layout_whose_object_is_missing_or_shortened_is_broken(
    tmp_path: Path, spoil: Callable[[Path], None], map_files: bool
) -> None:
    layout = write_layout(tmp_path, 2)
    spoil(layout.object_path(1))
    with pytest.raises(LayoutError, match=r"tp-00001-of-00002.*delete the layout's manifest\.json"):
        load(config(layout, 1, map_files=map_files))


@pytest.mark.parametrize("unmounted", [True, False])
def test_a_layout_of_which_nothing_is_there_is_missing_and_not_broken(
    tmp_path: Path, unmounted: bool
) -> None:
    layout = write_layout(tmp_path / "volume", 2)
    shutil.rmtree(layout.folder)
    if not unmounted:
        layout.folder.mkdir()
    with pytest.raises(LayoutNotFound, match="same volume or bucket as rank 0") as raised:
        DistributedCheckpointLoader(config(layout)).load(layout.manifest)
    assert "delete" not in raised.value.message.removesuffix("nobody deleted it")


def test_a_folder_without_a_manifest_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(LayoutNotFound, match="shardedmodel shard"):
        load(ModelLoadConfig(layout=f"file://{tmp_path}"))


def test_a_layout_cut_for_other_ranks_is_refused(tmp_path: Path) -> None:
    layout = write_layout(tmp_path, 2)
    with pytest.raises(ConfigurationError, match=r"world_size: 4 .* cut for 2 ranks"):
        load(ModelLoadConfig(layout=layout.uri, world_size=4))


def test_a_load_that_misses_its_deadline_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path, 1)
    read_range = LocalStore.read_range

    def slowly(*arguments: Any, **options: Any) -> None:
        time.sleep(0.1)
        read_range(*arguments, **options)

    monkeypatch.setattr(LocalStore, "read_range", slowly)
    with pytest.raises(Unavailable, match="deadline"):
        load(config(layout, deadline_seconds=1e-9))


def test_a_load_whose_deadline_passed_before_it_began_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path, 1)
    monkeypatch.setattr(LocalStore, "read_range", lambda *_, **options: time.sleep(0.1))
    with pytest.raises(Unavailable, match="deadline"):
        DistributedCheckpointLoader(config(layout)).load(deadline=time.monotonic() - 1)


def test_phases_divide_the_wall_time_of_the_load(tmp_path: Path) -> None:
    report = load(config(write_layout(tmp_path, 1))).report
    assert sum(report.phase_seconds.values()) == pytest.approx(report.seconds)


def test_an_empty_tensor_and_a_scalar_come_back(tmp_path: Path) -> None:
    tensors = {"empty": torch.empty(0, 3), "norm.weight": torch.tensor(2.5)}
    layout = write_layout(tmp_path, 1, tensors, common=("norm.weight", "empty"))
    state_dict = load(config(layout)).state_dict
    assert (state_dict["empty"].shape, state_dict["norm.weight"].item()) == ((0, 3), 2.5)


def test_the_peak_of_memory_covers_what_was_loaded(tmp_path: Path) -> None:
    report = load(config(write_layout(tmp_path, 1))).report
    assert report.peak_memory_bytes > report.bytes


@pytest.mark.parametrize("map_files", [True, False])
def test_a_load_goes_to_its_device_whatever_torch_makes_tensors_on_by_default(
    tmp_path: Path, map_files: bool
) -> None:
    layout = write_layout(tmp_path, world_size=1)
    with torch.device("meta"):
        state_dict = load(config(layout, device="cpu", map_files=map_files)).state_dict
    assert {name: raw(tensor) for name, tensor in state_dict.items()} == {
        name: raw(tensor) for name, tensor in layout.expected[0].items()
    }


def test_a_load_imports_nothing(tmp_path: Path) -> None:
    """An import takes longer than a hundred decimal_size do."""
    layout = write_layout(tmp_path, world_size=1)
    program = (
        "import sys\n"
        "from shardedmodel_runtime.loading.config import ModelLoadConfig\n"
        "from shardedmodel_runtime.loading.loader import load\n"
        "known = set(sys.modules)\n"
        "load(ModelLoadConfig(layout=sys.argv[1], device='cpu'))\n"
        "print(sorted(set(sys.modules) - known))\n"
    )
    command = [sys.executable, "-c", program, layout.uri]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"
