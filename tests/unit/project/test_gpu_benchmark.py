"""What of the GPU's benchmark runs without one."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock, call

import pytest
import torch

from benchmarks import gpu
from shardedmodel_runtime.loading.config import DEFAULT_RANGE_BYTES, Device, ModelLoadConfig
from tests.builders.layout import make_checkpoint, shard

GIGABYTE = 10**9


class Host:
    """An accelerator that is the host."""

    name = "host"
    kind: Device = "cpu"
    backend = "gloo"

    def __init__(self) -> None:
        self.copied: list[int] = []
        self.forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1

    def peak_bytes(self) -> int:
        return 7

    def copy_pinned(self, size: int) -> float:
        self.copied.append(size)
        return 0.5

    def bound(self) -> torch.device | None:
        return None


def test_without_cuda_it_says_what_it_needs_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--output", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_load_finds_neither_device_memory_nor_pinned_memory_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = MagicMock()
    monkeypatch.setattr(torch, "cuda", calls.cuda)
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", calls.empty_host_cache)
    gpu.Cuda().forget()
    device = torch.device("cuda", 0)
    assert calls.mock_calls[1:] == [
        call.cuda.synchronize(device),
        call.cuda.empty_cache(),
        call.empty_host_cache(),
        call.cuda.reset_peak_memory_stats(device),
    ]


def test_windows_cover_every_byte_once() -> None:
    window = DEFAULT_RANGE_BYTES
    assert gpu.spans(2 * window + 3) == [
        (0, window),
        (window, 2 * window),
        (2 * window, 2 * window + 3),
    ]


def test_each_round_copies_as_much_as_the_shard_and_loads_from_each_place(tmp_path: Path) -> None:
    layout = shard(make_checkpoint(tmp_path / "model").uri, (tmp_path / "out").as_uri(), 4)[2]
    config = ModelLoadConfig(layout=layout, world_size=4, device="cpu")
    host = Host()
    size, rounds = gpu.measure(host, {"page cache": config, "elsewhere": config}, 2)
    assert host.copied == [size] * 3
    assert host.forgotten == 9
    assert [list(each.loads) for each in rounds] == [["page cache", "elsewhere"]] * 2
    assert rounds[0].peaks == {"page cache": 7, "elsewhere": 7}


def test_a_load_is_held_against_the_pinned_copy_of_its_own_round() -> None:
    rounds = [
        gpu.Round(0.1, {"S3": 0.2}, {"S3": GIGABYTE}),
        gpu.Round(0.4, {"S3": 0.5}, {"S3": GIGABYTE + 1}),
        gpu.Round(0.9, {"S3": 1.0}, {"S3": GIGABYTE}),
    ]
    figures = gpu.summarize(GIGABYTE, rounds)
    assert figures["pinnedGigabytesPerSecond"]["median"] == 2.5
    assert figures["loads"]["S3"]["ofPinned"] == {"median": 0.8, "least": 0.5, "most": 0.9}
    assert figures["loads"]["S3"]["peakDeviceBytes"] == GIGABYTE + 1
    assert all(figures["loads"]["S3"]["reached"].values())


def test_more_device_memory_than_shard_and_ring_is_told() -> None:
    peak = GIGABYTE + gpu.RING_BYTES + 1
    figures = gpu.summarize(GIGABYTE, [gpu.Round(1.0, {"S3": 2.0}, {"S3": peak})])
    assert figures["loads"]["S3"]["reached"] == {
        "seconds": False,
        "ofPinned": False,
        "deviceMemory": False,
    }


def test_a_group_of_one_is_formed_and_left() -> None:
    assert gpu.form_group(Host()) > 0
    assert not torch.distributed.is_initialized()
