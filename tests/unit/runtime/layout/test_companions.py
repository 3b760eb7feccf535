from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from shardedmodel_runtime.errors import AccessDenied, ChecksumMismatch, LayoutError
from shardedmodel_runtime.formats.companions import COMPANION_BYTES_LIMIT, is_companion
from shardedmodel_runtime.layout.companions import copy_companions, read_companion
from shardedmodel_runtime.layout.manifest_content import ManifestFile
from shardedmodel_runtime.layout.verification import verify_layout
from shardedmodel_runtime.storage.base import ObjectInfo
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.checkpoint import MemoryStore
from tests.builders.layout import make_checkpoint, shard


def entry(name: str, data: bytes) -> ManifestFile:
    return ManifestFile(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.model", "vocab.txt", "chat_template.jinja", "a-b.c.json"]
)
def test_configuration_and_tokenizer_are_kept(name: str) -> None:
    assert is_companion(name)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "modeling_custom.py",
        ".hidden.json",
        "../config.json",
        "sub/config.json",
        "sub\\config.json",
        "config.json\n",
        "x" * 300 + ".json",
    ],
)
def test_other_files_are_not(name: str) -> None:
    assert not is_companion(name)
    with pytest.raises(ValidationError, match="not the name of a file that layouts keep"):
        entry(name, b"")


def test_small_files_are_copied_and_others_left() -> None:
    files = {"config.json": b"{}", "merges.txt": b"a b", "x.py": b"", "m.safetensors": b""}
    layout = MemoryStore({})
    kept = copy_companions(MemoryStore(files), layout)
    assert [file.name for file in kept] == ["config.json", "merges.txt"]
    assert layout.objects == {"source/config.json": b"{}", "source/merges.txt": b"a b"}
    assert [read_companion(layout, file) for file in kept] == [b"{}", b"a b"]


def test_what_is_there_already_stays_and_is_what_the_manifest_says() -> None:
    layout = MemoryStore({"source/config.json": b"first"})
    (file,) = copy_companions(MemoryStore({"config.json": b"second"}), layout)
    assert read_companion(layout, file) == b"first"


def test_a_source_that_may_not_be_listed_gives_its_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: MemoryStore, prefix: str = "") -> list[ObjectInfo]:
        raise AccessDenied("no listing")

    monkeypatch.setattr(MemoryStore, "list", refuse)
    source = MemoryStore({"config.json": b"{}", "merges.txt": b"a b"})
    assert [file.name for file in copy_companions(source, MemoryStore({}))] == ["config.json"]


def test_a_file_beyond_the_limit_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = ObjectInfo("vocab.txt", COMPANION_BYTES_LIMIT + 1, "")
    monkeypatch.setattr(MemoryStore, "list", lambda self, prefix="": [huge])
    assert copy_companions(MemoryStore({}), MemoryStore({})) == []


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        ({}, LayoutError),
        ({"source/a.json": b"longer"}, LayoutError),
        ({"source/a.json": b"othr"}, ChecksumMismatch),
    ],
)
def test_a_copy_that_is_not_what_the_manifest_says_is_refused(
    stored: dict[str, bytes], error: type[LayoutError]
) -> None:
    with pytest.raises(error, match=r"source/a\.json"):
        read_companion(MemoryStore(stored), entry("a.json", b"text"))


def test_verifying_a_layout_reads_its_small_files(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "source", "bert")
    _, manifest, uri = shard(checkpoint.uri, (tmp_path / "shards").as_uri(), 2)
    Path(f"{uri.removeprefix('file://')}/source/config.json").unlink()
    with open_store(uri) as store:
        assert [problem.key for problem in verify_layout(store, manifest).problems] == [
            "source/config.json"
        ]
