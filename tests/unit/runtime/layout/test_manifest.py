from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.errors import LayoutError, LayoutNotFound, StorageError, Unavailable
from shardedmodel_runtime.layout.manifest import Manifest, block_spans, read_manifest
from shardedmodel_runtime.layout.manifest_content import ManifestRule
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.storage.local import LocalStore
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.rank_layout import LAYOUT_HASH, write_layout

BLOCK = 4096


def layout_object(key: str, ranks: list[int], run: list[int], size: int) -> dict[str, Any]:
    return {
        "key": key,
        "ranks": ranks,
        "bytes": BLOCK + size,
        "sha256": "0" * 64,
        "blocks": ["0" * 32] * 2,
        "dataStart": BLOCK,
        "tensors": [run],
    }


def manifest_cut(strategy: str, shape: list[int], axes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "dtype": "F32",
        "castFrom": None,
        "shape": shape,
        "strategy": strategy,
        "axes": axes,
        "stages": None,
        "expert": None,
        "addedOnce": False,
    }


def document() -> dict[str, Any]:
    """Two ranks, one cut tensor, one replicated."""
    halves = {"over": "tensor", "dim": 0, "ranges": [[[0, 4]], [[4, 8]]], "pad": [0, 0]}
    return {
        "format": "shardedmodel.dev/layout",
        "version": 2,
        "layoutHash": "0123456789abcdef0123",
        "createdBy": "shardedmodel 0.1.0",
        "source": {
            "uri": "s3://models/m",
            "revision": "",
            "modelType": "llama",
            "objects": [],
            "files": [],
        },
        "parallelism": {"tensor": 2, "pipeline": 1, "expert": 1},
        "dtype": "keep",
        "planDigest": "sha256:00",
        "blockBytes": BLOCK,
        "blockAlgorithm": "xxh3-128",
        "cuts": [manifest_cut("column", [8], [halves]), manifest_cut("replicate", [6], [])],
        "tensors": [["w", 0], ["norm", 1]],
        "objects": [
            layout_object("common/part-00000.safetensors", [0, 1], [1, 2], 24),
            layout_object("tp-00000-of-00002/part-00000.safetensors", [0], [0, 1], 16),
            layout_object("tp-00001-of-00002/part-00000.safetensors", [1], [0, 1], 16),
        ],
    }


def parse(fields: dict[str, Any]) -> Manifest:
    return Manifest.parse(json.dumps(fields).encode(), "s3://shards/manifest.json")


def test_it_is_written_as_it_was_read() -> None:
    manifest = parse(document())
    assert json.loads(manifest.to_bytes()) == document()
    assert Manifest.parse(manifest.to_bytes()) == manifest


def test_rules_stand_in_it_where_there_are_some() -> None:
    rules = (Rule("*.w", "packed", parts=("query", "key")), Rule("*.v", "vocab", multiple=8))
    written = [ManifestRule.of(rule).model_dump(by_alias=True) for rule in rules]
    manifest = parse({**document(), "rules": written})
    assert manifest.user_rules == rules
    assert Manifest.parse(manifest.to_bytes()) == manifest
    assert b'"rules"' not in parse({**document(), "rules": []}).to_bytes()


def test_a_rank_needs_its_own_objects_and_the_common_ones() -> None:
    keys = [item.key for item in parse(document()).objects_of(1)]
    assert keys == ["tp-00001-of-00002/part-00000.safetensors", "common/part-00000.safetensors"]


def test_its_degrees_number_the_ranks() -> None:
    manifest = parse(document())
    assert manifest.degrees == Parallelism(2)
    assert manifest.degrees.world_size == manifest.world_size == 2


def test_sizes_add_up() -> None:
    manifest = parse(document())
    assert manifest.rank_bytes(0) == 2 * BLOCK + 16 + 24
    assert manifest.total_bytes == 3 * BLOCK + 16 + 16 + 24


def own(fields: dict[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = fields["objects"][1]
    return chosen


def halves(fields: dict[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = fields["cuts"][0]["axes"][0]
    return chosen


def norm_twice(fields: dict[str, Any]) -> None:
    """Let rank 0 hold it in two objects, and rank 1 nothing of its own."""
    own(fields).update(tensors=[[0, 2]], bytes=BLOCK + 40)
    fields["objects"].pop()


def rule(**fields: Any) -> dict[str, Any]:
    return {"match": "*", "strategy": "row", **fields}


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d.update(version=1), "version: 1: this release reads version 2"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d.update(format="other"), "format"),
        (lambda d: d["parallelism"].update(tensor=0), "parallelism.tensor"),
        (lambda d: d["parallelism"].update(tensor=1), "2 ranges and 2 pads are not 1"),
        (lambda d: d["parallelism"].update(tensor=1024, expert=8), "more than 4096"),
        (lambda d: own(d).update(key="../../etc/passwd"), "leaves the layout"),
        (lambda d: own(d).update(key="/etc/passwd"), "leaves the layout"),
        (lambda d: own(d).update(key=d["objects"][0]["key"]), "same key"),
        (lambda d: own(d).update(ranks=[]), "ranks"),
        (lambda d: own(d).update(ranks=[1, 0]), "ranks are not ascending"),
        (lambda d: own(d).update(ranks=[2]), "ranks are not ascending ranks of 2"),
        (lambda d: own(d).update(ranks=[0, 1]), "its ranks share pieces that are cut over tensor"),
        (lambda d: own(d).update(bytes=10**18, blocks=[]), "has 0 block checksums"),
        (lambda d: own(d).update(bytes=BLOCK + 15), "its tensors end at 4112, its bytes at 4111"),
        (lambda d: own(d).update(blocks=["0" * 32]), "has 1 block checksums, not 2"),
        (lambda d: own(d).update(dataStart=100), "dataStart 100 is not a multiple"),
        (lambda d: own(d).update(sha256="xyz"), "sha256"),
        (lambda d: own(d).update(tensors=[[0, 3]]), "tensors are not ascending ranges of 2"),
        (lambda d: own(d).update(tensors=[[1, 1]]), "tensors are not ascending ranges of 2"),
        (
            lambda d: own(d).update(tensors=[[0, 2], [1, 2]]),
            "tensors are not ascending ranges of 2",
        ),
        (lambda d: own(d).update(dataStart=0, bytes=0, blocks=[], tensors=[]), "behind a header"),
        (lambda d: own(d).update(tensors=[[0, 2]], bytes=BLOCK + 40), "ranks hold 5 tensors"),
        (lambda d: norm_twice(d), "rank 0 holds tensor 'norm' 2 times, not 1"),
        (lambda d: d["objects"].pop(), "rank 1 holds tensor 'w' 0 times, not 1"),
        (lambda d: d["tensors"].append(["w", 0]), "two have the same name"),
        (lambda d: d["tensors"].append(["v", 2]), "'v' has cut 2 of 2"),
        (lambda d: d["tensors"].append(["v", 1]), "'v' 0 times, not 1"),
        (lambda d: d.update(rules=1), "rules"),
        (lambda d: d.update(rules=[{"match": "*"}]), r"rules\.0\.strategy"),
        (lambda d: d.update(rules=[rule(dim=1)]), r"rules\.0\.dim"),
        (lambda d: d.update(rules=[rule(parts=[[1]])]), r"rules\.0\.parts\.0"),
        (lambda d: d.update(rules=[rule(uneven="guess")]), r"rules\.0\.uneven"),
        (lambda d: d["cuts"][0].update(dtype="F7"), r"cuts.0 \(column\): dtype 'F7'"),
        (lambda d: d["cuts"][0].update(shape=[1] * 65), r"cuts\.0\.shape"),
        (lambda d: d["cuts"][0].update(shape=[9]), "do not cover dimension 0 of size 9"),
        (lambda d: d["cuts"][0].update(shape=[7]), "end at 8 of 7"),
        (lambda d: d["cuts"][0].update(castFrom="I8"), "I8 is not cast to F32"),
        (lambda d: d["cuts"][0].update(stages=[1]), r"stages \[1\] are not ascending stages of 1"),
        (lambda d: d["cuts"][0].update(stages=[]), r"stages \[\] are not"),
        (lambda d: d["cuts"][0].update(expert=1), "expert rank 1 is not one of 1"),
        (lambda d: d["cuts"][0]["axes"].append(halves(d)), "cut over the same ranks"),
        (lambda d: halves(d).update(pad=[2**62, 0]), "overflows 64-bit offsets"),
        (lambda d: halves(d).update(dim=1), "dimension 1 is not one of 1"),
        (lambda d: halves(d).update(over="expert"), "are not 1, one per rank"),
        (lambda d: halves(d).update(ranges=[[[0, 4]]]), "1 ranges and 2 pads are not 2"),
        (lambda d: halves(d).update(ranges=[[[0, 4]], [[4, 4]]]), "are not ascending"),
        (lambda d: halves(d).update(ranges=[[[0, 4]], [[5, 8]]]), "do not cover dimension 0"),
        (lambda d: halves(d).update(ranges=[[[0, 5]], [[4, 8]]]), "of different ranks overlap"),
        (lambda d: halves(d).update(ranges=[[[2, 4], [0, 2]], [[4, 8]]]), "are not ascending"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(change: Change, complaint: str) -> None:
    fields = document()
    change(fields)
    with pytest.raises(LayoutError, match=complaint) as caught:
        parse(fields)
    assert caught.value.message.startswith("s3://shards/manifest.json: ")


def of_experts() -> dict[str, Any]:
    """Two expert ranks and two stages: one expert's tensor, fused experts, and one stage's norm."""
    fields = document()
    fields["parallelism"] = {"tensor": 1, "pipeline": 2, "expert": 2}
    halves = {"over": "expert", "dim": 0, "ranges": [[[0, 4]], [[4, 8]]], "pad": [0, 0]}
    own, norm = manifest_cut("experts", [2], []), manifest_cut("replicate", [6], [])
    fields["cuts"] = [
        manifest_cut("experts", [8], [halves]),
        {**own, "expert": 1, "stages": [0]},
        {**norm, "stages": [1]},
    ]
    fields["tensors"] = [["fused", 0], ["one", 1], ["norm", 2]]
    fields["objects"] = [
        layout_object("ep-0/part-00000.safetensors", [0, 2], [0, 1], 16),
        layout_object("ep-1/part-00000.safetensors", [1, 3], [0, 1], 16),
        layout_object("pp-0.ep-1/part-00000.safetensors", [1], [1, 2], 8),
        layout_object("pp-1/part-00000.safetensors", [2, 3], [2, 3], 24),
    ]
    return fields


def alone() -> dict[str, Any]:
    """All of dimension 0 for the one tensor rank."""
    return {"over": "tensor", "dim": 0, "ranges": [[[0, 8]]], "pad": [0]}


def test_ranks_need_what_their_stage_and_experts_need() -> None:
    manifest = parse(of_experts())
    held = [
        {placed.name for item in manifest.objects_of(rank) for placed in manifest.placed(item)}
        for rank in range(4)
    ]
    assert held == [{"fused"}, {"fused", "one"}, {"fused", "norm"}, {"fused", "norm"}]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d["objects"][3].update(ranks=[0, 3]), "names ranks that do not hold"),
        (lambda d: d["objects"][2].update(ranks=[0]), "names ranks that do not hold"),
        (lambda d: d["objects"][0].update(ranks=[0, 3]), "pieces that are cut over expert ranks"),
        (lambda d: d["objects"][3].update(ranks=[2]), "rank 3 holds tensor 'norm' 0 times, not 1"),
        (lambda d: d["cuts"][0].update(expert=0), "one expert rank holds it, and it is cut over"),
        (lambda d: d["cuts"][0]["axes"][0].update(pad=[0, 1]), "dimension 0, without pad"),
        (lambda d: d["cuts"][0]["axes"].append(alone()), "one dimension is cut twice"),
    ],
)
def test_stages_and_experts_that_do_not_fit_are_refused(change: Change, complaint: str) -> None:
    fields = of_experts()
    change(fields)
    with pytest.raises(LayoutError, match=complaint):
        parse(fields)


def test_a_manifest_of_too_many_ranks_and_tensors_is_not_checked_for_hours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shardedmodel_runtime.layout.proof.MAX_HOLDINGS", 3)
    with pytest.raises(LayoutError, match="2 tensors on 2 ranks are too many"):
        parse(document())


def test_objects_of_more_tensors_than_ranks_can_hold_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(
        "shardedmodel_runtime.layout.proof._check_size",
        lambda manifest, item, kinds, label: looked_at.append(item.key),
    )
    fields = document()
    fields["objects"] = [layout_object(f"part-{i}", [0], [0, 2], 40) for i in range(9)]
    with pytest.raises(LayoutError, match="object 'part-2': with it ranks hold 6 tensors"):
        parse(fields)
    assert looked_at == ["part-0", "part-1"]


def test_heads_may_be_held_by_several_ranks() -> None:
    fields = document()
    fields["cuts"][0]["strategy"] = "heads"
    halves(fields)["ranges"] = [[[0, 8]], [[0, 8]]]
    for item in fields["objects"][1:]:
        item["bytes"] += 16
    assert parse(fields).tensors["w"].piece(1).shape == (8,)


def test_a_cut_inside_a_byte_is_refused() -> None:
    fields = document()
    fields["cuts"][0]["dtype"] = "F4"
    halves(fields)["ranges"] = [[[0, 3]], [[3, 8]]]
    with pytest.raises(LayoutError, match="begins or ends inside a byte"):
        parse(fields)


def test_pieces_are_found_in_their_objects() -> None:
    manifest = parse(document())
    assert [(copy.key, copy.start, copy.place.rank) for copy in manifest.copies["w"]] == [
        ("tp-00000-of-00002/part-00000.safetensors", BLOCK, 0),
        ("tp-00001-of-00002/part-00000.safetensors", BLOCK, 1),
    ]
    assert [copy.key for copy in manifest.copies["norm"]] == ["common/part-00000.safetensors"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff"])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(LayoutError):
        Manifest.parse(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "Invalid JSON: .*; pre-shard the model again$"),
        (
            b'{"version": 3, "later": 1}',
            "version: 3: this release reads version 2 .*; pre-shard the model",
        ),
    ],
)
def test_a_manifest_that_cannot_be_read_is_told_with_what_to_do(data: bytes, told: str) -> None:
    with pytest.raises(LayoutError, match=told):
        Manifest.parse(data)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("shards", "gone/shards does not exist; name the layout's own folder"),
        ("0123456789abcdef0123", "does not exist; make it with `shardedmodel shard`$"),
    ],
)
def test_a_folder_without_a_layout_is_told_with_one_thing_to_do(
    tmp_path: Path, name: str, told: str
) -> None:
    with (
        open_store(f"{tmp_path.as_uri()}/gone/{name}") as store,
        pytest.raises(LayoutNotFound, match=told),
    ):
        read_manifest(store)


def test_a_layout_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    with (
        open_store(tmp_path.as_uri()) as store,
        pytest.raises(LayoutNotFound, match="holds no finished layout"),
    ):
        read_manifest(store)


def test_the_address_of_a_manifest_is_answered_with_what_to_name(tmp_path: Path) -> None:
    write_layout(tmp_path)
    with (
        open_store(f"{tmp_path.as_uri()}/manifest.json") as store,
        pytest.raises(LayoutNotFound, match="name the folder that its manifest is in"),
    ):
        read_manifest(store)


def test_a_manifest_of_another_layout_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / ("f" * 20)
    write_layout(folder)
    with (
        open_store(folder.as_uri()) as store,
        pytest.raises(LayoutError, match=f"of another layout, {LAYOUT_HASH}"),
    ):
        read_manifest(store)


def test_a_layout_may_lie_in_a_folder_of_another_kind_of_name(tmp_path: Path) -> None:
    manifest = write_layout(tmp_path / "step-100").manifest
    with open_store((tmp_path / "step-100").as_uri()) as store:
        assert read_manifest(store) == manifest


def test_a_manifest_is_not_read_without_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardedmodel_runtime.layout.manifest.MANIFEST_BYTES_LIMIT", 10)
    (tmp_path / MANIFEST_KEY).write_bytes(b" " * 11)
    with open_store(tmp_path.as_uri()) as store, pytest.raises(StorageError, match="at most 10"):
        read_manifest(store)


class Trickle(LocalStore):
    """A store that takes its time over each object."""

    def read(self, key: str, *, limit: int, digest: str | None = None) -> bytes:
        threading.Event().wait(5)
        return super().read(key, limit=limit, digest=digest)


def test_a_manifest_that_comes_too_slowly_is_not_waited_for(tmp_path: Path) -> None:
    write_layout(tmp_path)
    store = Trickle(parse_uri(tmp_path.as_uri()))
    with pytest.raises(Unavailable, match=r"manifest\.json: did not come within the 0\.01 s"):
        read_manifest(store, within_seconds=0.01)


class Refusing(Trickle):
    """A store that cannot be reached, and is asked again."""

    def read(self, key: str, *, limit: int, digest: str | None = None) -> bytes:
        self.repeated(Unavailable("could not connect to the endpoint"))
        return super().read(key, limit=limit, digest=digest)


def test_a_manifest_that_does_not_come_in_time_tells_what_went_wrong_last(tmp_path: Path) -> None:
    store = Refusing(parse_uri(tmp_path.as_uri()))
    with pytest.raises(Unavailable, match="its deadline left; could not connect to the endpoint"):
        read_manifest(store, within_seconds=0.2)


def test_a_deadline_changes_nothing_for_a_manifest_that_comes(tmp_path: Path) -> None:
    manifest = write_layout(tmp_path).manifest
    with open_store(tmp_path.as_uri()) as store:
        assert read_manifest(store, within_seconds=60) == manifest


def test_a_missing_manifest_is_missing_with_a_deadline_too(tmp_path: Path) -> None:
    with open_store(tmp_path.as_uri()) as store, pytest.raises(LayoutNotFound):
        read_manifest(store, within_seconds=60)


def test_blocks_span_the_object() -> None:
    assert block_spans(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert block_spans(8, 4) == [(0, 4), (4, 8)]
