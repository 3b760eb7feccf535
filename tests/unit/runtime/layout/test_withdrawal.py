"""What is left of a layout that was made of a broken one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shardedmodel_runtime.cli import main
from shardedmodel_runtime.errors import AccessDenied, LayoutError
from shardedmodel_runtime.layout import withdrawal
from shardedmodel_runtime.layout.resharding import LayoutSource
from shardedmodel_runtime.storage.local import LocalStore
from tests.builders.layout import make_checkpoint, shard

BrokenAtItsEnd = Callable[[Callable[[Path, Path], object]], set[str]]


@pytest.fixture
def broken_at_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BrokenAtItsEnd:
    """Cuts a layout anew that shows as broken once all is written; gives what is left then.

    What is called before it shows gets the new layout's folder, and that of the same layout,
    finished.
    """
    checkpoint = make_checkpoint(tmp_path / "source")
    _, _, first = shard(checkpoint.uri, (tmp_path / "first").as_uri(), 4)
    _, manifest, direct = shard(checkpoint.uri, (tmp_path / "direct").as_uri(), 2)
    target = tmp_path / "again" / manifest.layout_hash

    def cut(meanwhile: Callable[[Path, Path], object]) -> set[str]:
        def settle(source: LayoutSource) -> None:
            meanwhile(target, Path(direct.removeprefix("file://")))
            raise LayoutError("broken")

        monkeypatch.setattr(LayoutSource, "settle", settle)
        assert main(["reshard", first, target.parent.as_uri(), "--tensor", "2"]) == 6
        return {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}

    return cut


def test_a_layout_that_others_have_finished_meanwhile_is_not_taken_back(
    broken_at_its_end: BrokenAtItsEnd,
) -> None:
    left = broken_at_its_end(
        lambda folder, finished: shutil.copytree(finished, folder, dirs_exist_ok=True)
    )
    assert {"manifest.json", "tp-00001-of-00002/part-00000.safetensors"} < left


def test_an_object_that_others_have_finished_meanwhile_is_not_taken_back(
    broken_at_its_end: BrokenAtItsEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_one(folder: Path, finished: Path) -> None:
        monkeypatch.setattr(
            withdrawal,
            "find_finished",
            lambda store, planned: planned if planned.key.startswith("tp-00001") else None,
        )

    assert broken_at_its_end(record_one) == {"tp-00001-of-00002/part-00000.safetensors"}


def test_a_storage_that_keeps_what_is_broken_does_not_hide_that_it_is(
    broken_at_its_end: BrokenAtItsEnd,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(store: LocalStore, key: str) -> None:
        raise AccessDenied(f"{key}: may not be deleted")

    broken_at_its_end(lambda *_: monkeypatch.setattr(LocalStore, "delete", refuse))
    assert "objects of a broken source are left behind" in caplog.text
