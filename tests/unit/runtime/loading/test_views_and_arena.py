from __future__ import annotations

import errno
import gc
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardedmodel_runtime import memory
from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.formats.dtypes import DTYPE_BITS
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.loading import arena
from shardedmodel_runtime.loading.arena import HostArena, choose_device
from shardedmodel_runtime.loading.views import TORCH_DTYPES, contiguous_strides, tensor_views
from shardedmodel_runtime.memory import Access
from tests.builders.rank_layout import write_layout


def test_a_torch_dtype_has_the_bits_of_its_safetensors_dtype() -> None:
    bits = {name: 8 * dtype.itemsize for name, dtype in TORCH_DTYPES.items()}
    assert bits == {name: DTYPE_BITS[name] for name in TORCH_DTYPES}


def test_only_sub_byte_dtypes_have_no_torch_dtype() -> None:
    assert DTYPE_BITS.keys() - TORCH_DTYPES.keys() == {"F4", "F6_E2M3", "F6_E3M2"}


def test_a_tensor_of_a_sub_byte_dtype_is_its_raw_bytes(tmp_path: Path) -> None:
    data = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    document = json.loads(write_layout(tmp_path, 1, {"t": data}).manifest.to_bytes())
    document["cuts"][0] |= {"dtype": "F4", "shape": [2, 4]}
    manifest = Manifest.parse(json.dumps(document).encode())
    [item] = manifest.objects
    memory = torch.cat([torch.zeros(item.data_start, dtype=torch.uint8), data.flatten()])
    assert tensor_views(manifest, item, memory)["t"].tolist() == [1, 2, 3, 4]


def test_bytes_land_in_the_tensor_itself() -> None:
    arena = HostArena(4)
    with arena.landing(1, 3) as view:
        view[:] = b"\x07\x08"
    arena.finish()
    assert arena.tensor[1:3].tolist() == [7, 8]


def test_pages_are_made_of_new_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(arena, "populate", lambda memory, access: made.append(len(memory)))
    for held in (None, torch.zeros(4, dtype=torch.uint8)):
        host = HostArena(4, held)
        with host.landing(1, 4) as view:
            host.make_room(view[:2])
    assert made == [2]


def test_memory_that_cannot_be_had_shows_when_bytes_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(memory: memoryview, access: Access) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(arena, "populate", refuse)
    host = HostArena(4)
    with host.landing(0, 4) as view:
        host.make_room(view)


def test_an_automatic_device_is_the_cpu_where_cuda_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", 0) == torch.device("cpu")


def test_cuda_that_is_missing_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="needs CUDA device 0"):
        choose_device("cuda", 0)


def test_each_local_rank_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)


def test_more_local_ranks_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigurationError, match="torch finds 2"):
        choose_device("auto", 2)


def test_without_proc_the_peak_of_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "Path", lambda _: Path("/nonexistent"))
    assert memory.peak_memory_bytes() == 0


@given(shape=st.lists(st.integers(0, 4), max_size=4).map(tuple))
def test_strides_are_those_of_a_tensor_of_that_shape(shape: tuple[int, ...]) -> None:
    assert contiguous_strides(shape) == torch.empty(shape).stride()


def test_a_view_is_the_tensor_wherever_the_memory_lies_in_its_storage(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6, dtype=torch.int64).reshape(2, 3), "b": torch.ones(5).half()}
    layout = write_layout(tmp_path, 1, tensors)
    [item] = layout.manifest.objects
    content = torch.tensor(list((layout.folder / item.key).read_bytes()), dtype=torch.uint8)
    memory = torch.cat([torch.zeros(16, dtype=torch.uint8), content])[16:]
    views = tensor_views(layout.manifest, item, memory)
    assert {name: view.is_contiguous() for name, view in views.items()} == {"a": True, "b": True}
    assert torch.equal(views["a"], tensors["a"])
    assert torch.equal(views["b"], tensors["b"])
    views["b"][0] = 7
    assert memory[-10:-8].view(torch.float16)[0] == 7


@pytest.mark.parametrize("collects", [True, False])
def test_making_tensors_leaves_the_garbage_collector_as_it_was(
    tmp_path: Path, collects: bool
) -> None:
    layout = write_layout(tmp_path, 1, {"t": torch.ones(2)})
    [item] = layout.manifest.objects
    was_on = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        tensor_views(layout.manifest, item, torch.empty(item.bytes, dtype=torch.uint8))
        assert gc.isenabled() == collects
    finally:
        (gc.enable if was_on else gc.disable)()


def test_an_object_that_memory_has_no_room_for_is_told_by_its_size() -> None:
    with pytest.raises(ConfigurationError, match=f"the host gives no {2**60} bytes"):
        HostArena(2**60)
