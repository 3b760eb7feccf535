"""``shardedmodel unshard``: where its files go, and what is left where they do not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.cli import main
from shardedmodel_runtime.layout import unsharding
from tests.builders.layout import make_checkpoint, shard


@pytest.fixture
def layout(tmp_path: Path) -> str:
    checkpoint = make_checkpoint(tmp_path / "source", "bert")
    return shard(checkpoint.uri, (tmp_path / "shards").as_uri(), 2)[2]


def test_the_folder_may_be_given_by_its_uri(layout: str, tmp_path: Path) -> None:
    assert main(["unshard", layout, (tmp_path / "out").as_uri()]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("folder", "complaint"),
    [
        ("s3://models/x", "s3:// is not on this machine; name a folder here"),
        ("file://host/x", "argument FOLDER: uri: 'file://host/x'"),
    ],
)
def test_a_folder_that_is_elsewhere_is_refused(
    layout: str, capsys: pytest.CaptureFixture[str], folder: str, complaint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["unshard", layout, folder])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_disk_that_takes_no_more_is_told_by_the_folder(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    assert main(["unshard", layout, str(out)]) == 4
    assert f"FOLDER: {out} cannot be written: [Errno 28] No space left" in capsys.readouterr().err


def test_sigterm_leaves_nothing_of_what_was_written(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_end(*arguments: Any) -> list[str]:
        signal.raise_signal(signal.SIGTERM)
        return []

    monkeypatch.setattr(unsharding, "_write_files", write_and_end)
    before = set(tmp_path.iterdir())
    assert main(["unshard", layout, str(tmp_path / "out")]) == 143
    assert set(tmp_path.iterdir()) == before
