"""What is wrong with a source, a rule or a store: one named error each, and nothing published.

The table in ``docs/commands.md`` says the same, and is held against what happens here.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from shardedmodel_runtime.cli import COMMANDS, EXIT_CODES, main
from shardedmodel_runtime.cli.rules import parse_rules
from shardedmodel_runtime.errors import (
    CheckpointError,
    ConfigurationError,
    InvalidIndex,
    InvalidSafetensors,
    InvalidSharding,
    NotFound,
    PickleCheckpoint,
    ShardedModelError,
    SourceChanged,
    Unavailable,
    UnsupportedArchitecture,
)
from shardedmodel_runtime.formats.hf import INDEX_KEY
from shardedmodel_runtime.formats.safetensors import MAX_HEADER_BYTES
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.storage.local import LocalStore, LocalWriter
from tests.builders.checkpoint import llama_config, llama_shapes, write_checkpoint
from tests.builders.layout import make_checkpoint

DOCUMENT = Path(__file__).parents[4] / "docs" / "commands.md"

Spoil = Callable[[Path, pytest.MonkeyPatch], list[str]]
"""Spoils a good checkpoint; gives further arguments of ``shardedmodel shard``."""


def file_with(header: Any, data: int) -> Spoil:
    """The checkpoint's only file has this header, and so many bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()

    def spoil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        write_single(folder, struct.pack("<Q", len(text)) + text + bytes(data))
        return []

    return spoil


def write_single(folder: Path, content: bytes) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "model.safetensors").write_bytes(content)


def entry(start: int, end: int, shape: list[int], dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def truncated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    path = folder / "model-00002-of-00002.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    return []


def length_past_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    write_single(folder, struct.pack("<Q", 1000) + b"{}")
    return []


def header_over_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    write_single(folder, struct.pack("<Q", MAX_HEADER_BYTES + 1))
    os.truncate(folder / "model.safetensors", 2 * MAX_HEADER_BYTES)  # sparse
    return []


def change_index(change: Callable[[dict[str, str]], None]) -> Spoil:
    def spoil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        index = json.loads((folder / INDEX_KEY).read_text())
        change(index["weight_map"])
        (folder / INDEX_KEY).write_text(json.dumps(index))
        return []

    return spoil


def tensor_twice_in_the_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    text = (folder / INDEX_KEY).read_text()
    first = re.search(r'"weight_map": \{("[^"]+": "[^"]+")', text)
    assert first
    (folder / INDEX_KEY).write_text(text.replace(first[1], f"{first[1]}, {first[1]}", 1))
    return []


def tensor_in_two_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / INDEX_KEY).unlink()
    first = folder / "model-00001-of-00002.safetensors"
    (folder / "model-00002-of-00002.safetensors").write_bytes(first.read_bytes())
    return []


def missing_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "model-00002-of-00002.safetensors").unlink()
    return []


def only(name: str) -> Spoil:
    """The checkpoint has no weights but this file."""

    def spoil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        (folder / name).write_bytes(b"\x80")
        return []

    return spoil


def no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    return []


def configuration(**changes: Any) -> Spoil:
    def spoil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return []

    return spoil


def rules(*value: dict[str, str]) -> Spoil:
    return lambda folder, monkeypatch: ["--rules", json.dumps(value)]


def ranks(tensor: int) -> Spoil:
    return lambda folder, monkeypatch: ["--tensor", str(tensor)]


def source_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read_range = LocalStore.read_range

    def change_and_read(
        self: LocalStore, key: str, start: int, into: memoryview, *, digest: str | None = None
    ) -> None:
        if key.endswith(".safetensors") and start:
            os.utime(folder / key, ns=(1, 1))
        read_range(self, key, start, into, digest=digest)

    monkeypatch.setattr(LocalStore, "read_range", change_and_read)
    return []


def storage_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    write_part, written = LocalWriter.write_part, []

    def write_or_fail(self: LocalWriter, index: int, data: bytes | bytearray) -> None:
        written.append(index)
        if len(written) > 1:
            raise Unavailable("the storage went away")
        write_part(self, index, data)

    monkeypatch.setattr(LocalWriter, "write_part", write_or_fail)
    return []


RANKS = ("tp-00000-of-00002", "tp-00001-of-00002")
FIRST = "model-00001-of-00002.safetensors"

CASES: dict[str, tuple[Spoil, type[ShardedModelError]]] = {
    "a truncated file": (truncated, InvalidSafetensors),
    "a file of less than 8 bytes": (only("model.safetensors"), InvalidSafetensors),
    "a header's length beyond the file's end": (length_past_the_end, InvalidSafetensors),
    "a header over 100 MB": (header_over_the_limit, InvalidSafetensors),
    "a header that is not JSON": (file_with(b"{nonsense", 0), InvalidSafetensors),
    "offsets that overlap": (
        file_with({"a": entry(0, 4, [4]), "b": entry(2, 6, [4])}, 6),
        InvalidSafetensors,
    ),
    "offsets with a gap": (
        file_with({"a": entry(0, 4, [4]), "b": entry(6, 8, [2])}, 8),
        InvalidSafetensors,
    ),
    "a size that is not the shape's": (
        file_with({"a": entry(0, 4, [2])}, 4),
        InvalidSafetensors,
    ),
    "a shape that overflows": (
        file_with({"a": entry(0, 4, [2**62, 2**62])}, 4),
        InvalidSafetensors,
    ),
    "an unknown dtype": (file_with({"a": entry(0, 4, [4], "F31")}, 4), InvalidSafetensors),
    "a name that is not printable": (
        file_with({"a\u202eb": entry(0, 4, [4])}, 4),
        InvalidSafetensors,
    ),
    "a key that stands twice": (file_with(b'{"a":{},"a":{}}', 0), InvalidSafetensors),
    "a tensor in two files": (tensor_in_two_files, InvalidSafetensors),
    "an index that names a missing file": (missing_file, InvalidIndex),
    "an index that names a tensor twice": (tensor_twice_in_the_index, InvalidIndex),
    "an index that names a tensor its file lacks": (
        change_index(lambda places: places.update({"ghost.weight": FIRST})),
        InvalidIndex,
    ),
    "an index that forgets a tensor": (
        change_index(lambda places: places.pop("model.norm.weight")),  # type: ignore[arg-type]
        InvalidIndex,
    ),
    "a path in an index's file names": (
        change_index(lambda places: places.update({"model.norm.weight": "../x.safetensors"})),
        InvalidIndex,
    ),
    "only `.bin` files": (only("pytorch_model.bin"), PickleCheckpoint),
    "only `.pt` files": (only("consolidated.00.pt"), PickleCheckpoint),
    "no weights at all": (no_weights, NotFound),
    "a configuration without `model_type`": (configuration(model_type=None), CheckpointError),
    "head counts that cannot be": (configuration(num_key_value_heads=3), CheckpointError),
    "an architecture without a plan": (
        configuration(model_type="unheard-of"),
        UnsupportedArchitecture,
    ),
    "most of a checkpoint without a rule": (
        lambda folder, monkeypatch: [
            *configuration(model_type="unheard-of")(folder, monkeypatch),
            *rules({"match": "model.norm.weight", "strategy": "replicate"})(folder, monkeypatch),
        ],
        InvalidSharding,
    ),
    "a rule that matches nothing": (
        rules({"match": "nothing", "strategy": "column"}),
        InvalidSharding,
    ),
    "a rule that the shape does not allow": (
        rules({"match": "*norm.weight", "strategy": "row"}),
        InvalidSharding,
    ),
    "an unknown strategy": (rules({"match": "*", "strategy": "diagonal"}), InvalidSharding),
    "an unknown field of a rule": (
        rules({"match": "*", "strategy": "row", "axis": "1"}),
        ConfigurationError,
    ),
    "more tensor ranks than heads": (ranks(16), InvalidSharding),
    "a degree out of range": (ranks(0), ConfigurationError),
    "a source that changes while it is read": (source_changes, SourceChanged),
    "a storage that fails half-way": (storage_fails, Unavailable),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_named_error_and_nothing_is_published(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    spoil, error = CASES[case]
    source = make_checkpoint(tmp_path / "source", "llama", files=2)
    more = spoil(tmp_path / "source", monkeypatch)
    command = ["shard", source.uri, (tmp_path / "shards").as_uri(), "--tensor", "2", *more]
    assert main(command) == error.exit_code
    assert capsys.readouterr().err.startswith(f"error: {error.__name__}: ")
    assert not list(tmp_path.glob(f"shards/*/{MANIFEST_KEY}"))


def test_a_path_in_a_tensors_name_leads_nowhere(tmp_path: Path) -> None:
    config = llama_config()
    names = {f"{trick}.weight": (8,) for trick in ("../../up", "/root", "a/../../../b", "c:\\d")}
    write_checkpoint(tmp_path / "in" / "source", config, llama_shapes(config) | names)
    source, shards = tmp_path / "in" / "source", tmp_path / "in" / "shards"
    back = tmp_path / "in" / "back"
    assert main(["shard", source.as_uri(), shards.as_uri(), "--tensor", "2"]) == 0
    (layout,) = shards.glob("*")
    assert main(["unshard", layout.as_uri(), str(back)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"source", "shards", "back"}
    assert {path.name for path in back.iterdir()} == {"config.json", "model.safetensors"}
    keys = {str(path.relative_to(layout)) for path in layout.rglob("*") if path.is_file()}
    assert keys == {
        "manifest.json",
        "source/config.json",
        *(f"{folder}/part-00000.safetensors" for folder in ("common", *RANKS)),
    }
    with safe_open(back / "model.safetensors", framework="np") as opened:
        assert names.keys() <= set(opened.keys())


def test_the_document_and_the_help_have_the_same_exit_codes() -> None:
    listed = re.findall(r"^\| (\d+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert listed == re.findall(r"^  (\d+) +(.+)$", EXIT_CODES, re.MULTILINE)
    errors = {
        error.exit_code
        for error in every_error(ShardedModelError)
        if error.__module__.startswith("shardedmodel_runtime.")  # the operator has others
    }
    assert errors <= {int(code) for code, _ in listed}


def every_error(base: type[ShardedModelError]) -> list[type[ShardedModelError]]:
    return [base, *(error for each in base.__subclasses__() for error in every_error(each))]


def test_the_document_names_every_command() -> None:
    rows = re.findall(r"^\| `([a-z-]+) .*?` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert rows == list(COMMANDS)


def test_the_rules_of_the_document_can_be_meant(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "rules.yaml").write_text(text)
    WeightDistributor(Parallelism(2), parse_rules(str(tmp_path / "rules.yaml")))


def test_the_document_lists_what_happens() -> None:
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| (.+?) \| `(\w+)` \| (\d) \| (yes|no) \|$", text, re.MULTILINE)
    assert rows == [
        (case, error.__name__, str(error.exit_code), "yes" if error.retryable else "no")
        for case, (_, error) in CASES.items()
    ]
