"""A layout that is deleted is gone at once, all of it, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shardedmodel_runtime.cli import main
from shardedmodel_runtime.errors import LayoutError, LayoutNotFound, Unavailable
from shardedmodel_runtime.layout import deletion
from shardedmodel_runtime.layout.deletion import DELETED_KEY, delete_layout
from shardedmodel_runtime.layout.manifest import read_manifest
from shardedmodel_runtime.report import Failure
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.layout import make_checkpoint, shard


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout beside another one and a file of somebody's."""
    source = make_checkpoint(tmp_path / "source")
    storage = tmp_path / "shards"
    storage.mkdir()
    (storage / "note.txt").write_text("mine")
    shard(source.uri, storage.as_uri(), 4)
    _, _, uri = shard(source.uri, storage.as_uri(), 2)
    return Path(uri.removeprefix("file://"))


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def delete(folder: Path) -> int:
    with open_store(folder.as_uri()) as store:
        return delete_layout(store)


def test_all_of_a_layout_goes_and_nothing_beside_it(layout: Path) -> None:
    others = files(layout.parent) - {f"{layout.name}/{name}" for name in files(layout)}
    count = len(files(layout))
    assert delete(layout) == count
    assert files(layout) == set()
    assert files(layout.parent) == others


def test_what_killed_jobs_left_goes_as_well(layout: Path) -> None:
    folder = next(path for path in layout.iterdir() if path.is_dir())
    (folder / "part-00000.safetensors.json").write_text("{}")
    (layout / "source").mkdir(exist_ok=True)
    (layout / "source" / "config.json").write_text("{}")
    delete(layout)
    assert files(layout) == set()


def test_no_folder_of_a_deleted_layout_is_left(layout: Path) -> None:
    delete(layout)
    assert not layout.exists()
    assert layout.parent.exists()


def test_a_layout_that_is_not_there_is_deleted_already(layout: Path) -> None:
    delete(layout)
    assert delete(layout) == 0


def test_a_layout_that_was_begun_and_never_finished_goes_as_well(layout: Path) -> None:
    (layout / "manifest.json").unlink()
    count = len(files(layout))
    assert delete(layout) == count
    assert files(layout) == set()


def test_of_a_folder_without_manifest_only_what_a_job_wrote_goes(layout: Path) -> None:
    (layout / "manifest.json").unlink()
    own = {"notes/part-00000.safetensors", "common/notes.txt", "readme"}
    for name in own:
        (layout / name).parent.mkdir(exist_ok=True)
        (layout / name).write_text("mine")
    delete(layout)
    assert files(layout) == own


def test_a_folder_of_somebodys_own_name_is_no_unfinished_layout(layout: Path) -> None:
    renamed = layout.rename(layout.with_name("precious"))
    (renamed / "manifest.json").unlink()
    before = files(renamed)
    assert delete(renamed) == 0
    assert files(renamed) == before


class Interrupted(LocalStore):
    """A store that answers no more after some deletions."""

    left = 2

    def delete(self, key: str) -> None:
        if self.left == 0:
            raise Unavailable("the store is away")
        self.left -= 1
        super().delete(key)


def test_an_interrupted_deletion_is_finished_by_the_next(
    layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "DELETE_THREADS", 1)
    with Interrupted(parse_uri(layout.as_uri())) as store:
        with pytest.raises(Unavailable):
            delete_layout(store)
        with pytest.raises(LayoutNotFound):
            read_manifest(store)
    assert DELETED_KEY in files(layout)
    assert delete(layout) > 0
    assert files(layout) == set()


def test_a_folder_that_is_not_named_by_its_layout_is_left_alone(layout: Path) -> None:
    renamed = layout.rename(layout.with_name("precious"))
    before = files(renamed)
    with pytest.raises(LayoutError, match="nothing of 'precious' is deleted"):
        delete(renamed)
    assert files(renamed) == before


@pytest.mark.parametrize("content", ["{", '{"formatVersion": 99}'])
def test_of_a_layout_whose_manifest_cannot_be_read_what_a_job_wrote_goes(
    layout: Path, content: str
) -> None:
    (layout / "manifest.json").write_text(content)
    (layout / "notes").mkdir()
    (layout / "notes/mine.txt").write_text("not the Job's")
    assert delete(layout) > 0
    assert files(layout) == {"notes/mine.txt"}


def test_a_broken_manifest_elsewhere_is_left_alone(layout: Path) -> None:
    renamed = layout.rename(layout.with_name("precious"))
    (renamed / "manifest.json").write_text("{")
    before = files(renamed)
    with pytest.raises(LayoutError, match=r"manifest\.json"):
        delete(renamed)
    assert files(renamed) == before


def test_the_command_says_what_it_deleted(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(files(layout))
    assert main(["delete-layout", layout.as_uri(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"layout": layout.as_uri(), "objects": count}
    assert main(["delete-layout", layout.as_uri()]) == 0
    assert capsys.readouterr().out == (
        f"{layout.as_uri()}: there is no layout, and nothing was deleted\n"
    )


def test_a_failure_is_left_for_the_kubelet(layout: Path, tmp_path: Path) -> None:
    renamed, log = layout.rename(layout.with_name("precious")), tmp_path / "log"
    arguments = ["delete-layout", renamed.as_uri(), "--termination-log", str(log)]
    assert main(arguments) == LayoutError.exit_code
    assert Failure.model_validate_json(log.read_text()).reason == "LayoutError"
