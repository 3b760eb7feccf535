"""What commands tell while a store does not answer."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.cli import main
from shardedmodel_runtime.cli.progress import waiting_line
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.layout import make_checkpoint, shard

WAIT_SECONDS = 30.0
"""Longest wait for what a command has to tell: a test that fails ends."""


class Terminal(io.StringIO):
    """Where somebody looks on."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def uris(tmp_path: Path) -> dict[str, str]:
    checkpoint = make_checkpoint(tmp_path / "source", "bert")
    storage = (tmp_path / "shards").as_uri()
    _, _, layout = shard(checkpoint.uri, storage, 2)
    _, _, one = shard(checkpoint.uri, storage, 1)
    new = (tmp_path / "new").as_uri()
    return {"source": checkpoint.uri, "layout": layout, "one": one, "new": new}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("plan {source} --tensor 2", "the checkpoint's headers of {source}"),
        ("verify {layout}", "the manifest of {layout}"),
        ("unshard {layout} {new}", "the manifest of {layout}"),
        ("reshard {layout} {new} --tensor 1", "the manifest of {layout}"),
        ("delete-layout {layout}", "the deletion of {layout}"),
        ("load {one} --device cpu", "the manifest of {one}"),
    ],
)
def test_a_command_tells_what_it_waits_for_and_why(
    uris: dict[str, str], monkeypatch: pytest.MonkeyPatch, command: str, told: str
) -> None:
    stderr = io.StringIO()
    text = f"waiting for {told.format(**uris)}, which failed: the store is away\n"

    def slow(read: Callable[..., Any]) -> Callable[..., Any]:
        def wait(store: LocalStore, *arguments: Any, **options: Any) -> Any:
            store.last_failure = "the store is away"
            until = time.monotonic() + WAIT_SECONDS
            while text not in stderr.getvalue() and time.monotonic() < until:
                time.sleep(0.01)
            return read(store, *arguments, **options)

        return wait

    monkeypatch.setattr("shardedmodel_runtime.cli.progress.LOG_SECONDS", 0.01)
    monkeypatch.setattr(sys, "stderr", stderr)
    for name in ("read", "read_head"):
        monkeypatch.setattr(LocalStore, name, slow(getattr(LocalStore, name)))
    assert main(command.format(**uris).split()) == 0
    assert text in stderr.getvalue()


def test_a_terminal_forgets_what_was_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with waiting_line(LocalStore(parse_uri(tmp_path.as_uri())), "something"):
        pass
    assert terminal.getvalue() == "\r\x1b[K"
