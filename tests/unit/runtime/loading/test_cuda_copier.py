"""Which calls the CUDA copier makes of torch, in which order; what CUDA does is not shown here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock, call

import pytest
import torch

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.loading import ring
from shardedmodel_runtime.loading.arena import callers_stream
from shardedmodel_runtime.loading.ring import CudaCopier

DEVICE = torch.device("cuda", 1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Every call, in order; ``stream`` is the copier's, ``callers`` the one of its caller."""
    log = MagicMock()
    monkeypatch.setattr(ring, "_streams", {})
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: log.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: log.callers)
    monkeypatch.setattr(torch.cuda, "Event", log.make_event)

    def entering(name: str) -> Any:
        @contextmanager
        def enter(what: Any) -> Iterator[None]:
            getattr(log, name)(what)
            yield
            getattr(log, f"{name}_left")()

        return enter

    monkeypatch.setattr(torch.cuda, "stream", entering("on_stream"))
    monkeypatch.setattr(torch.cuda, "device", entering("on_device"))
    return log


def test_a_copy_runs_on_the_copiers_stream_and_its_event_follows_it(calls: MagicMock) -> None:
    source, target = MagicMock(), calls.target
    CudaCopier(DEVICE).copy(source, target).wait()
    assert calls.mock_calls == [
        call.on_device(DEVICE),
        call.on_stream(calls.stream),
        call.target.copy_(source, non_blocking=True),
        call.make_event(blocking=True),
        call.make_event().record(calls.stream),
        call.on_stream_left(),
        call.on_device_left(),
        call.make_event().synchronize(),
    ]


@pytest.mark.usefixtures("calls")
def test_memory_that_was_taken_in_inference_mode_is_copied_into_by_other_threads() -> None:
    with torch.inference_mode():
        memory = torch.zeros(4, dtype=torch.uint8)
    CudaCopier(DEVICE).copy(torch.arange(2, dtype=torch.uint8), memory[2:])
    assert memory.tolist() == [0, 0, 0, 1]


def test_copies_of_all_loads_to_a_device_follow_each_other_and_other_devices_have_their_own(
    calls: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: calls.streams[device.index])
    for device in (DEVICE, torch.device("cuda", 0), DEVICE):
        CudaCopier(device).copy(MagicMock(), MagicMock())
    assert [entered.args[0] for entered in calls.on_stream.mock_calls] == [
        calls.streams[1],
        calls.streams[0],
        calls.streams[1],
    ]


def test_copies_wait_for_what_was_queued_on_held_memory_and_hold_it_until_they_ended(
    calls: MagicMock,
) -> None:
    assert CudaCopier(DEVICE).adopt(calls.held) is calls.held
    assert calls.mock_calls == [
        call.stream.wait_stream(calls.callers),
        call.held.record_stream(calls.stream),
    ]


def test_new_memory_is_taken_on_the_callers_stream_and_then_adopted(
    calls: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "empty", calls.empty)
    assert CudaCopier(DEVICE).allocate(4) is calls.empty.return_value
    assert calls.mock_calls == [
        call.empty(4, dtype=torch.uint8, device=DEVICE),
        call.stream.wait_stream(calls.callers),
        call.empty().record_stream(calls.stream),
    ]


def test_windows_are_pinned_for_the_copiers_device(
    calls: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "empty", calls.empty)
    CudaCopier(DEVICE).window(4)
    assert calls.mock_calls == [
        call.on_device(DEVICE),
        call.empty(4, dtype=torch.uint8, device="cpu", pin_memory=True),
        call.on_device_left(),
    ]


def test_the_thread_that_loads_works_on_its_callers_stream_within_its_device(
    calls: MagicMock,
) -> None:
    with callers_stream(DEVICE):
        calls.work()
    assert calls.mock_calls == [
        call.on_device(DEVICE),
        call.on_stream(calls.callers),
        call.work(),
        call.on_stream_left(),
        call.on_device_left(),
    ]


def test_finishing_waits_for_the_whole_stream(calls: MagicMock) -> None:
    CudaCopier(DEVICE).finish()
    assert calls.mock_calls == [call.stream.synchronize()]


def test_a_device_without_room_is_an_error_that_names_it(
    calls: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.empty.side_effect = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(torch, "empty", calls.empty)
    with pytest.raises(ConfigurationError, match=r"cuda:1 has no room for an object of 4 bytes"):
        CudaCopier(DEVICE).allocate(4)


def test_a_host_without_pinned_memory_is_an_error_that_says_what_to_do(
    calls: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.empty.side_effect = RuntimeError("CUDA error: out of memory")
    monkeypatch.setattr(torch, "empty", calls.empty)
    with pytest.raises(ConfigurationError, match=r"no 4 bytes of pinned memory for cuda:1 .*lower"):
        CudaCopier(DEVICE).window(4)
