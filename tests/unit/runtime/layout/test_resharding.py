from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardedmodel_runtime.cli import main
from shardedmodel_runtime.errors import (
    ChecksumMismatch,
    LayoutError,
    NotFound,
    StorageError,
)
from shardedmodel_runtime.layout.checking import CheckedObject
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.layout.presharder import Presharder
from shardedmodel_runtime.layout.resharding import LayoutSource
from shardedmodel_runtime.layout.saver import CheckpointSaver
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.report import ShardSummary
from shardedmodel_runtime.sharding.distributor import WeightDistributor
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.checkpoint import llama_config, llama_shapes, write_checkpoint
from tests.builders.layout import Checkpoint, make_checkpoint, shard


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "source", "llama", files=3, config={"vocab_size": 315})


def reshard(
    layout: str, storage: str, tensor: int, degrees: Parallelism | None = None, **options: Any
) -> ShardSummary:
    with open_store(layout) as store:
        manifest = read_manifest(store)
        source = LayoutSource(store, manifest)
        job = ShardJob(
            ShardRequest(manifest.source.uri, storage, degrees or Parallelism(tensor), **options),
            lambda uri: source,
            open_store,
            read_metadata=lambda store: source.metadata(),
            settle=source.settle,
        )
        return job.run()


def files_of(uri: str) -> dict[str, bytes]:
    folder = Path(uri.removeprefix("file://"))
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(("before", "after"), [(4, 8), (8, 2), (2, 2), (1, 4), (4, 1)])
def test_a_layout_cut_anew_is_the_layout_cut_from_the_checkpoint(
    tmp_path: Path, checkpoint: Checkpoint, before: int, after: int
) -> None:
    _, _, first = shard(checkpoint.uri, (tmp_path / "first").as_uri(), before)
    _, _, direct = shard(checkpoint.uri, (tmp_path / "direct").as_uri(), after)
    summary = reshard(first, (tmp_path / "again").as_uri(), after)
    again = summary.manifest_uri.removesuffix("/manifest.json")
    assert again.rpartition("/")[2] == direct.rpartition("/")[2]
    assert files_of(again) == files_of(direct)


EXPERTS = (
    Rule("*experts.*.up_proj.weight", "experts", inner="column"),
    Rule("*experts.gate_up_proj", "experts", inner="column"),
    Rule("*experts.down_proj", "experts", inner="row"),
)


@pytest.fixture
def mixture(tmp_path: Path) -> str:
    """A Llama of four layers with experts, one tensor each and fused."""
    config = llama_config(num_hidden_layers=4, vocab_size=315)
    shapes = llama_shapes(config)
    for layer in range(4):
        prefix = f"model.layers.{layer}.mlp.experts"
        shapes |= {f"{prefix}.{n}.up_proj.weight": (16, 24) for n in range(4)}
        shapes |= {f"{prefix}.gate_up_proj": (4, 16, 8), f"{prefix}.down_proj": (4, 6, 16)}
    write_checkpoint(tmp_path / "mixture", config, shapes, files=2)
    return (tmp_path / "mixture").as_uri()


@pytest.mark.parametrize(
    ("before", "after", "dtype"),
    [
        (Parallelism(1), Parallelism(2, pipeline=2), "keep"),
        (Parallelism(2, pipeline=2), Parallelism(4), "keep"),
        (Parallelism(2, expert=2), Parallelism(4, expert=4), "keep"),
        (Parallelism(4, expert=4), Parallelism(1, pipeline=2, expert=2), "bfloat16"),
        (Parallelism(4, pipeline=2, expert=2), Parallelism(2), "keep"),
    ],
)
def test_stages_and_experts_are_cut_anew(
    tmp_path: Path, mixture: str, before: Parallelism, after: Parallelism, dtype: str
) -> None:
    def cut(storage: str, degrees: Parallelism, dtype: str) -> str:
        request = ShardRequest(
            mixture, (tmp_path / storage).as_uri(), degrees, rules=EXPERTS, dtype=dtype
        )
        uri = ShardJob(request, open_store, open_store).run().manifest_uri
        return uri.removesuffix("/manifest.json")

    direct = cut("direct", after, dtype)
    first = cut("first", before, "keep")
    again = reshard(first, (tmp_path / "a").as_uri(), 0, after, rules=EXPERTS, dtype=dtype)
    assert files_of(again.manifest_uri.removesuffix("/manifest.json")) == files_of(direct)


OWN = (
    Rule("*.mlp.gate_proj.weight", "replicate"),
    Rule("*.mlp.up_proj.weight", "row"),
    Rule("lm_head.weight", "vocab", multiple=16),
    Rule("*.input_layernorm.weight", "column"),
    Rule("*.layers.1.self_attn.q_proj.weight", "heads", parts=("query",)),
)
"""Rules that cut otherwise than the built-in ones."""


def run_reshard(layout: str, storage: Path, *arguments: str) -> str:
    """The command; returns the new layout's address."""
    assert main(["reshard", layout, storage.as_uri(), *arguments]) == 0
    (found,) = storage.glob("*")
    return found.as_uri()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Parallelism(4), Parallelism(8)),
        (Parallelism(8), Parallelism(2)),
        (Parallelism(2), Parallelism(2, pipeline=2)),
    ],
    ids=["tensor 4 to 8", "tensor 8 to 2", "pipeline 1 to 2"],
)
def test_a_layout_remembers_the_rules_it_was_cut_with(
    tmp_path: Path, checkpoint: Checkpoint, before: Parallelism, after: Parallelism
) -> None:
    _, _, first = shard(checkpoint.uri, (tmp_path / "first").as_uri(), before, rules=OWN)
    _, manifest, direct = shard(checkpoint.uri, (tmp_path / "direct").as_uri(), after, rules=OWN)
    _, other, _ = shard(checkpoint.uri, (tmp_path / "other").as_uri(), after)
    assert manifest.layout_hash != other.layout_hash
    degrees = ("--tensor", str(after.tensor), "--pipeline", str(after.pipeline))
    again = run_reshard(first, tmp_path / "again", *degrees)
    assert files_of(again) == files_of(direct)
    with open_store(again) as store:
        assert read_manifest(store).user_rules == OWN


@pytest.mark.parametrize("given", [(), (Rule("lm_head.weight", "replicate"),)], ids=["no", "one"])
def test_rules_that_are_given_replace_those_of_the_layout(
    tmp_path: Path, checkpoint: Checkpoint, given: tuple[Rule, ...]
) -> None:
    _, _, first = shard(checkpoint.uri, (tmp_path / "first").as_uri(), 4, rules=OWN)
    _, _, direct = shard(checkpoint.uri, (tmp_path / "direct").as_uri(), 2, rules=given)
    text = json.dumps([asdict(rule) for rule in given])
    again = run_reshard(first, tmp_path / "again", "--tensor", "2", "--rules", text)
    assert files_of(again) == files_of(direct)


def test_rules_of_a_layout_are_checked_like_the_users(
    tmp_path: Path, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    _, manifest, first = shard(checkpoint.uri, (tmp_path / "first").as_uri(), 4, rules=OWN)
    path = Path(first.removeprefix("file://")) / "manifest.json"
    data = json.loads(manifest.to_bytes())
    data["rules"][0]["strategy"] = "diagonal"
    path.write_text(json.dumps(data))
    assert main(["reshard", first, (tmp_path / "again").as_uri(), "--tensor", "2"]) == 2
    assert "unknown strategy 'diagonal'" in capsys.readouterr().err
    assert not list(tmp_path.glob("again/*"))


def test_a_cast_layout_is_cut_anew_as_it_is(tmp_path: Path, mixture: str) -> None:
    request = ShardRequest(
        mixture, (tmp_path / "s").as_uri(), Parallelism(4), rules=EXPERTS, dtype="bfloat16"
    )
    first = ShardJob(request, open_store, open_store).run()
    uri = first.manifest_uri.removesuffix("/manifest.json")
    options: dict[str, Any] = {"rules": EXPERTS, "dtype": "bfloat16"}
    half = reshard(uri, (tmp_path / "half").as_uri(), 2, **options)
    half_uri = half.manifest_uri.removesuffix("/manifest.json")
    back = reshard(half_uri, (tmp_path / "back").as_uri(), 4, **options)
    tensors = [
        {key: data for key, data in files_of(each).items() if key.endswith(".safetensors")}
        for each in (uri, back.manifest_uri.removesuffix("/manifest.json"))
    ]
    assert tensors[0] == tensors[1]


def test_the_checkpoint_is_not_needed(tmp_path: Path, checkpoint: Checkpoint) -> None:
    _, _, first = shard(checkpoint.uri, (tmp_path / "first").as_uri(), 4)
    (tmp_path / "source").rename(tmp_path / "gone")
    assert not reshard(first, (tmp_path / "again").as_uri(), 2).reused


def test_a_layout_that_is_there_is_found_without_reading_weights(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    storage = (tmp_path / "shards").as_uri()
    _, _, first = shard(checkpoint.uri, storage, 4)
    shard(checkpoint.uri, storage, 2)
    summary = reshard(first, storage, 2)
    assert (summary.reused, summary.source_bytes_read) == (True, 0)


Spoil = Callable[[Path], object]


def flip(place: int) -> Spoil:
    def spoil(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (flip(-1), r"block 0 \(from byte 0\) differs"),
        (flip(20), r"block 0 \(from byte 0\) differs"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), r"it has \d+ bytes, not"),
        (lambda path: path.unlink(), "it is missing"),
    ],
    ids=["a bit of its data", "a bit of its header", "truncated", "missing"],
)
@pytest.mark.parametrize("number", [0, -1], ids=["first object", "last object"])
def test_a_broken_layout_is_not_cut_anew(
    tmp_path: Path, checkpoint: Checkpoint, number: int, spoil: Spoil, complaint: str
) -> None:
    _, manifest, first = shard(checkpoint.uri, (tmp_path / "first").as_uri(), 4)
    path = Path(first.removeprefix("file://")) / manifest.objects[number].key
    sound = path.read_bytes()
    spoil(path)
    storage = tmp_path / "again"
    with pytest.raises(
        LayoutError, match=rf"{manifest.objects[number].key} is broken: {complaint}"
    ):
        reshard(first, storage.as_uri(), 2)
    assert [path for path in storage.rglob("*") if path.is_file()] == []
    path.write_bytes(sound)
    _, _, direct = shard(checkpoint.uri, (tmp_path / "direct").as_uri(), 2)
    again = reshard(first, storage.as_uri(), 2).manifest_uri.removesuffix("/manifest.json")
    assert files_of(again) == files_of(direct)


Opened = Callable[[int], tuple[LayoutSource, Manifest]]


@pytest.fixture
def opened(tmp_path: Path, checkpoint: Checkpoint) -> Opened:
    def open_layout(tensor: int) -> tuple[LayoutSource, Manifest]:
        _, manifest, uri = shard(checkpoint.uri, (tmp_path / "shards").as_uri(), tensor)
        return LayoutSource(open_store(uri), manifest), manifest

    return open_layout


def test_a_block_is_compared_where_it_ends(opened: Opened) -> None:
    source, manifest = opened(2)
    item = manifest.objects[-1]
    with open_store(source.uri) as store:
        small = item.model_copy(update={"blocks": ["0" * 32] * -(-item.bytes // 4096)})
        checked = CheckedObject(store, small, 4096)
        checked.read(0, memoryview(bytearray(4095)))
        with pytest.raises(LayoutError, match=r"block 0 .* differs"):
            checked.read(4095, memoryview(bytearray(1)))


def test_a_manifest_that_was_changed_shows(opened: Opened) -> None:
    source, manifest = opened(2)
    item = manifest.objects[0].model_copy(update={"sha256": "0" * 64})
    with (
        open_store(source.uri) as store,
        pytest.raises(LayoutError, match="SHA-256 differs while every block agrees"),
    ):
        CheckedObject(store, item, manifest.block_bytes).finish()


def test_every_span_reads_as_in_the_checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tmp_path = tmp_path_factory.mktemp("spans")
    checkpoint = make_checkpoint(tmp_path / "source", "llama", config={"vocab_size": 315})
    whole = b"".join(checkpoint.tensors.values())
    _, manifest, uri = shard(checkpoint.uri, (tmp_path / "shards").as_uri(), 8)

    with open_store(uri) as store, LayoutSource(store, manifest) as source:

        @given(st.integers(0, len(whole)), st.integers(0, 5000))
        @settings(max_examples=60)
        def check(start: int, size: int) -> None:
            stop = min(start + size, len(whole))
            span = bytearray(stop - start)
            source.read_range("model.safetensors", start, memoryview(span))
            assert bytes(span) == whole[start:stop]

        check()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Parallelism(4), Parallelism(8)),
        (Parallelism(8), Parallelism(2)),
        (Parallelism(8), Parallelism(1)),
        (Parallelism(2), Parallelism(2, pipeline=2)),
        (Parallelism(2, pipeline=2), Parallelism(4)),
        (Parallelism(4, expert=4), Parallelism(2, pipeline=2, expert=2)),
    ],
)
def test_each_byte_of_the_layout_is_read_once(
    tmp_path: Path, mixture: str, before: Parallelism, after: Parallelism
) -> None:
    _, manifest, first = shard(mixture, (tmp_path / "first").as_uri(), before, rules=EXPERTS)
    summary = reshard(first, (tmp_path / "again").as_uri(), 0, after, rules=EXPERTS)
    assert not summary.reused
    assert summary.source_bytes_read == manifest.total_bytes


@pytest.mark.parametrize("chunk_bytes", [1000, 4096])
@pytest.mark.parametrize("before", [Parallelism(4, expert=4), Parallelism(8, pipeline=2)])
@pytest.mark.parametrize("after", [Parallelism(1), Parallelism(4, pipeline=2, expert=2)])
def test_many_small_reads_read_each_byte_once(
    tmp_path: Path, mixture: str, before: Parallelism, after: Parallelism, chunk_bytes: int
) -> None:
    _, manifest, first = shard(mixture, (tmp_path / "first").as_uri(), before, rules=EXPERTS)
    again = open_store((tmp_path / "again").as_uri())
    with open_store(first) as store, again, LayoutSource(store, manifest) as source:
        metadata = source.metadata()
        plan = WeightDistributor(after, EXPERTS).plan(metadata)
        saver = CheckpointSaver(again, plan, "", leave_records=False)
        told = store.bytes_read
        Presharder(source, metadata, plan, saver, chunk_bytes=chunk_bytes, in_order=True).run()
        source.settle()
        assert store.bytes_read - told == manifest.total_bytes


def test_what_is_asked_for_again_is_read_again(opened: Opened) -> None:
    source, manifest = opened(4)
    tensors = sum(cut.nbytes for cut in manifest.tensors.values())
    for _ in range(2):
        source.read_range("", 0, memoryview(bytearray(tensors)))
    source.settle()
    assert source.bytes_read == manifest.total_bytes + tensors


def test_the_source_says_what_the_checkpoint_said(opened: Opened) -> None:
    source, manifest = opened(2)
    metadata = source.metadata()
    digests = {item.key: item.digest for item in manifest.source.objects}
    assert metadata.digests() == digests
    assert list(metadata.tensors) == list(manifest.tensors)
    assert metadata.config.attention_heads == 8


def test_small_files_are_kept(opened: Opened, checkpoint: Checkpoint) -> None:
    source, _ = opened(2)
    original = Path(checkpoint.uri.removeprefix("file://")) / "config.json"
    assert [info.key for info in source.list()] == ["config.json"]
    assert source.read("config.json", limit=10_000) == original.read_bytes()
    info, beginning = source.read_head("config.json", 5)
    assert (info, beginning) == (source.describe("config.json"), original.read_bytes()[:5])


def test_files_that_are_not_kept_are_not_found(opened: Opened) -> None:
    source, _ = opened(2)
    with pytest.raises(NotFound, match=r"keeps no tokenizer\.json"):
        source.read("tokenizer.json", limit=1)
    with pytest.raises(StorageError, match="at most 1 are read"):
        source.read("config.json", limit=1)


def test_a_changed_file_is_refused(opened: Opened) -> None:
    source, _ = opened(2)
    path = Path(source.uri.removeprefix("file://")) / "source" / "config.json"
    path.write_text(path.read_text().replace("llama", "lemur"))
    with pytest.raises(ChecksumMismatch, match=r"source/config\.json"):
        source.metadata()


def test_a_layout_that_does_not_say_what_it_was_cut_from_is_no_source(opened: Opened) -> None:
    source, manifest = opened(2)
    data = json.loads(manifest.to_bytes())
    data["source"]["objects"] = []
    with (
        open_store(source.uri) as store,
        pytest.raises(LayoutError, match=r"names no \.safetensors object"),
    ):
        LayoutSource(store, Manifest.parse(json.dumps(data).encode()))
