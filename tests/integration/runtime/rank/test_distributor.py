"""A rank in this process, with a real store and a real (gloo) group over loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from shardedmodel_runtime.errors import ConfigurationError, GroupError, Unavailable
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.rank import distributor as distributor_module
from shardedmodel_runtime.rank import group, membership
from shardedmodel_runtime.rank.distributor import FORM_ATTEMPTS, ModelDistributor
from shardedmodel_runtime.rank.entrypoint import RankContext
from shardedmodel_runtime.rank.incarnations import Member
from shardedmodel_runtime.rank.network import interface_of
from shardedmodel_runtime.rank.options import Place
from shardedmodel_runtime.rank.store import Store, connect
from shardedmodel_runtime.storage.local import LocalStore
from tests.builders.pods import eventually, free_port
from tests.builders.rank_layout import Layout, raw, write_layout

pytestmark = pytest.mark.integration


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", interface_of("127.0.0.1"))
    return free_port()


def distributor(
    layout: Layout, port: int, rank: int = 0, timeout: float = 30, **values: Any
) -> ModelDistributor:
    world_size = layout.manifest.world_size
    config = ModelLoadConfig(
        layout=layout.uri, world_size=world_size, rank=rank, device="cpu", **values
    )
    place = Place(pod=f"model-{rank}", master_port=port)
    return ModelDistributor(config, place=place, join_timeout_seconds=timeout)


def replace_rank(port: int, rank: int, world_size: int) -> None:
    """Join as a new process of a rank would."""
    store = connect(("127.0.0.1", port), 5, threading.Event())
    Member(rank, world_size).join(store)


def test_a_rank_loads_and_forms_torchs_default_group(tmp_path: Path, port: int) -> None:
    layout = write_layout(tmp_path, 1)
    with distributor(layout, port) as rank:
        shard = rank.load()
        rank.form()
        total = torch.ones(1)
        dist.all_reduce(total)
        eventually(lambda: rank.report().state == "ready", "ready")
    assert total.item() == 1
    assert raw(shard.state_dict["norm.weight"]) == raw(layout.expected[0]["norm.weight"])


def test_the_report_tells_bytes_phases_and_the_group(tmp_path: Path, port: int) -> None:
    layout = write_layout(tmp_path, 1)
    with distributor(layout, port) as rank:
        rank.load()
        rank.form()
        eventually(lambda: rank.group_report().formed, "formed")
        report = rank.group_report()
    (own,) = report.ranks
    assert own.bytes == own.bytes_done == own.bytes_read == layout.manifest.rank_bytes(0)
    assert own.loaded_at is not None
    assert own.phase_seconds.keys() == {
        *("join", "metadata", "allocate", "read", "verify", "copy", "barrier")
    }
    assert (report.layout_hash, report.backend, report.complete) == (
        layout.folder.name,
        "gloo",
        True,
    )


def test_a_rank_is_loaded_and_not_ready_before_its_group_is_formed(
    tmp_path: Path, port: int
) -> None:
    with distributor(write_layout(tmp_path, 2), port) as rank:
        rank.load()
        assert (rank.report().state, rank.group_report().formed) == ("loaded", False)


def test_missing_ranks_are_named(tmp_path: Path, port: int) -> None:
    with distributor(write_layout(tmp_path, 3), port, timeout=0.3) as rank:
        rank.load()
        with pytest.raises(GroupError, match=r"2 of 3 ranks are missing after 0 s: 1, 2"):
            rank.form()


def test_many_missing_ranks_are_counted() -> None:
    message = group.describe_missing(list(range(1, 12)), 12, 60)
    assert "11 of 12 ranks are missing after 60 s: 1, 2, 3, 4, 5, 6, 7, 8 and 3 more" in message


def test_a_missing_rank_0_is_named(tmp_path: Path, port: int) -> None:
    with (
        distributor(write_layout(tmp_path, 2), port, rank=1, timeout=0.1) as rank,
        pytest.raises(GroupError, match=f"rank 0 is missing: its store at 127.0.0.1:{port}"),
    ):
        rank.load()


def test_what_the_manifest_took_is_not_given_to_the_load_again(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path, 1)

    def late(*_: object, **options: object) -> Manifest:
        time.sleep(0.3)
        return layout.manifest

    monkeypatch.setattr(distributor_module, "read_manifest", late)
    monkeypatch.setattr(LocalStore, "read_range", lambda *_, **options: time.sleep(0.1))
    with (
        distributor(layout, port, map_files=False, deadline_seconds=0.25) as rank,
        pytest.raises(Unavailable, match="did not end within its deadline"),
    ):
        rank.load()


def test_a_rank_waits_for_the_manifest_until_its_deadline(tmp_path: Path, port: int) -> None:
    layout = write_layout(tmp_path, 2)
    with (
        distributor(layout, port),
        distributor(layout, port, rank=1, timeout=600, deadline_seconds=0.5) as rank,
        pytest.raises(GroupError, match="rank 0 did not publish the layout's manifest within 0 s"),
    ):
        rank.load()


def test_a_store_port_in_use_is_a_group_error(tmp_path: Path, port: int) -> None:
    layout = write_layout(tmp_path, 1)
    with (
        distributor(layout, port),
        pytest.raises(GroupError, match=f"MASTER_PORT: .* port {port}"),
    ):
        distributor(layout, port).__enter__()


def test_a_groups_port_is_free_when_it_is_over(tmp_path: Path, port: int) -> None:
    layout = write_layout(tmp_path, 2)
    with distributor(layout, port, timeout=0.1) as first, pytest.raises(GroupError):
        first.form()
    with distributor(layout, port) as second:
        assert second.config == first.config


def test_a_rank_outside_its_with_block_does_not_wait_for_ever(tmp_path: Path, port: int) -> None:
    rank = distributor(write_layout(tmp_path, 1), port)
    with pytest.raises(ConfigurationError, match="use it in a `with` block"):
        rank.load()
    with rank:
        rank.load()
    with pytest.raises(GroupError, match="has left its group"):
        rank.form()


def test_ranks_that_cannot_be_connected_are_given_up_after_some_attempts(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def fail(member: Member, store: object, incarnation: int, *rest: object) -> None:
        attempts.append(incarnation)
        raise group.FormingFailed("connection refused")

    monkeypatch.setattr(group, "form", fail)
    with distributor(write_layout(tmp_path, 1), port) as rank:
        rank.load()
        with pytest.raises(GroupError, match="connection refused"):
            rank.form()
    assert attempts == list(range(FORM_ATTEMPTS))


def test_a_peer_that_arrived_and_left_fails_the_forming(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "FORM_TIMEOUT", timedelta(seconds=0.2))
    with distributor(write_layout(tmp_path, 2), port) as rank:
        rank.load()
        store = connect(("127.0.0.1", port), 5, threading.Event())
        with pytest.raises(group.FormingFailed, match="incarnation 0"):
            group.form(Member(0, 2), store, 0, "gloo", torch.device("cpu"))


def test_a_group_that_changes_just_when_it_was_formed_is_formed_anew(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = group.form

    def form_and_change(member: Member, store: Store, incarnation: int, *rest: Any) -> None:
        form(member, store, incarnation, *rest)
        if incarnation == 0:
            rank._membership.leave(0)

    monkeypatch.setattr(group, "form", form_and_change)
    with distributor(write_layout(tmp_path, 1), port) as rank:
        rank.load()
        assert rank.form() == 1


def test_an_unexpected_end_of_keeping_in_touch_is_told(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UnicodeError("label empty or too long")

    monkeypatch.setattr(membership, "connect", fail)
    with (
        distributor(write_layout(tmp_path, 1), port) as rank,
        pytest.raises(GroupError, match="UnicodeError: label empty"),
    ):
        rank.load()


def test_a_rank_that_waits_says_for_what(tmp_path: Path, port: int) -> None:
    with distributor(write_layout(tmp_path, 2), port, rank=1) as rank:
        eventually(
            lambda: rank.report().message == f"waiting for rank 0's store at 127.0.0.1:{port}",
            "told",
        )


def in_background(run: Callable[[], None]) -> list[BaseException]:
    errors: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except GroupError as error:
            errors.append(error)

    threading.Thread(target=target, daemon=True).start()
    return errors


def test_an_entrypoint_gets_what_its_rank_holds(tmp_path: Path, port: int) -> None:
    contexts: list[RankContext] = []
    with distributor(write_layout(tmp_path, 1), port) as rank:
        in_background(lambda: rank.run(contexts.append))
        eventually(lambda: bool(contexts), "called")
    (context,) = contexts
    assert (context.coordinate.rank, context.world_size, context.device.type) == (0, 1, "cpu")


def test_a_change_of_the_group_is_told_while_an_entrypoint_runs(tmp_path: Path, port: int) -> None:
    running, changed = threading.Event(), threading.Event()
    with distributor(write_layout(tmp_path, 1), port) as rank:
        in_background(lambda: rank.run(lambda _: running.set(), changed.set))
        assert running.wait(30)
        replace_rank(port, 0, 1)
        assert changed.wait(30)


def test_a_rank_that_was_taken_over_gives_up(tmp_path: Path, port: int) -> None:
    with distributor(write_layout(tmp_path, 1), port) as rank:
        errors = in_background(rank.run)
        eventually(lambda: rank.report().state == "ready", "ready")
        replace_rank(port, 0, 1)
        eventually(lambda: bool(errors), "given up")
    assert "another process has taken over" in str(errors[0])


def test_an_address_that_no_interface_has_gives_no_name() -> None:
    assert interface_of("203.0.113.7") == ""


def test_stopping_does_not_wait_for_a_store_that_never_comes(tmp_path: Path, port: int) -> None:
    with distributor(write_layout(tmp_path, 2), port, rank=1, timeout=600) as rank:
        pass
    assert rank.report().state == "starting"
