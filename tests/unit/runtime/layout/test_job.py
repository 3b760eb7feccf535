from __future__ import annotations

import json
from pathlib import Path

import pytest

from shardedmodel_runtime.errors import InvalidSharding
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.memory import peak_memory_bytes
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.report import TERMINATION_MESSAGE_LIMIT
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.layout import Checkpoint, make_checkpoint, shard


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "source", "bert")


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return (tmp_path / "shards").as_uri()


def folder_of(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def test_a_layout_is_made_under_its_hash(checkpoint: Checkpoint, storage: str) -> None:
    summary, manifest, uri = shard(checkpoint.uri, storage, 2)
    assert summary.manifest_uri == f"{uri}/{MANIFEST_KEY}"
    assert (summary.objects, summary.bytes) == (3, manifest.total_bytes)
    assert summary.source_bytes == summary.source_bytes_read == checkpoint.tensor_bytes
    assert summary.max_rank_bytes == manifest.rank_bytes(0)
    assert not summary.reused


def test_the_manifest_names_the_source_and_its_state(checkpoint: Checkpoint, storage: str) -> None:
    _, manifest, _ = shard(checkpoint.uri, storage, 2)
    with open_store(checkpoint.uri) as store:
        info = store.describe("model.safetensors")
    objects = {item.key: (item.bytes, item.digest) for item in manifest.source.objects}
    assert manifest.source.uri == checkpoint.uri
    assert objects["model.safetensors"] == (info.size, info.digest)
    assert objects.keys() == {"config.json", "model.safetensors"}


def test_a_second_run_finds_the_work_done(checkpoint: Checkpoint, storage: str) -> None:
    first, _, _ = shard(checkpoint.uri, storage, 2)
    second, _, _ = shard(checkpoint.uri, storage, 2)
    assert (second.reused, second.source_bytes_read) == (True, 0)
    assert second.layout_hash == first.layout_hash


def test_another_parallelism_is_another_layout(checkpoint: Checkpoint, storage: str) -> None:
    assert shard(checkpoint.uri, storage, 2)[2] != shard(checkpoint.uri, storage, 4)[2]


def test_a_changed_source_is_another_layout(
    tmp_path: Path, checkpoint: Checkpoint, storage: str
) -> None:
    before = shard(checkpoint.uri, storage, 2)[2]
    make_checkpoint(tmp_path / "source", "bert", seed=1)
    assert shard(checkpoint.uri, storage, 2)[2] != before


def test_a_layout_that_lost_an_object_is_made_anew(checkpoint: Checkpoint, storage: str) -> None:
    _, manifest, uri = shard(checkpoint.uri, storage, 2)
    lost = folder_of(uri) / manifest.objects[0].key
    lost.unlink()
    assert not shard(checkpoint.uri, storage, 2)[0].reused
    assert lost.stat().st_size == manifest.objects[0].bytes


def test_a_layout_with_a_shortened_object_is_made_anew(
    checkpoint: Checkpoint, storage: str
) -> None:
    _, manifest, uri = shard(checkpoint.uri, storage, 2)
    with (folder_of(uri) / manifest.objects[0].key).open("r+b") as file:
        file.truncate(10)
    assert not shard(checkpoint.uri, storage, 2)[0].reused


@pytest.mark.parametrize("broken", [b"{", b"{}"])
def test_a_layout_with_a_broken_manifest_is_made_anew(
    checkpoint: Checkpoint, storage: str, broken: bytes
) -> None:
    _, manifest, uri = shard(checkpoint.uri, storage, 2)
    (folder_of(uri) / MANIFEST_KEY).write_bytes(broken)
    summary, again, _ = shard(checkpoint.uri, storage, 2)
    assert (summary.reused, again) == (False, manifest)


def test_a_manifest_of_another_layout_is_not_believed(checkpoint: Checkpoint, storage: str) -> None:
    uri = shard(checkpoint.uri, storage, 2)[2]
    path = folder_of(uri) / MANIFEST_KEY
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layoutHash": "0" * 20}))
    assert not shard(checkpoint.uri, storage, 2)[0].reused


def test_what_no_rule_matched_is_in_the_summary(tmp_path: Path, storage: str) -> None:
    config = {"model_type": "unheard-of"}
    checkpoint = make_checkpoint(tmp_path / "source", "bert", config=config)
    request = ShardRequest(
        checkpoint.uri,
        storage,
        Parallelism(2),
        rules=(Rule("*.query.weight", "heads"),),
        allow_unmatched=True,
    )
    summary = ShardJob(request, open_store, open_store).run()
    assert summary.unmatched.tensors == len(checkpoint.tensors) - 4
    assert len(summary.unmatched.examples) == 5
    assert len(summary.to_json()) <= TERMINATION_MESSAGE_LIMIT


def test_a_parallelism_that_does_not_fit_writes_nothing(
    tmp_path: Path, checkpoint: Checkpoint, storage: str
) -> None:
    with pytest.raises(InvalidSharding):
        shard(checkpoint.uri, storage, 3)
    assert not (tmp_path / "shards").exists()


def test_progress_begins_at_nothing_and_ends_at_everything(
    checkpoint: Checkpoint, storage: str
) -> None:
    job = ShardJob(ShardRequest(checkpoint.uri, storage, Parallelism(2)), open_store, open_store)
    before = job.progress()
    summary = job.run()
    after = job.progress()
    assert (before.objects, before.bytes, before.remaining_seconds) == (0, 0, None)
    assert (after.objects, after.bytes_done, after.bytes) == (3, summary.bytes, summary.bytes)
    assert after.remaining_seconds == 0


def test_an_unknown_dtype_is_refused(checkpoint: Checkpoint, storage: str) -> None:
    request = ShardRequest(checkpoint.uri, storage, Parallelism(2), dtype="int3")
    with pytest.raises(InvalidSharding, match=r"sharding\.dtype: 'int3'"):
        ShardJob(request, open_store, open_store).run()


def test_peak_memory_is_of_a_python_process_and_in_bytes() -> None:
    assert 10 * 2**20 < peak_memory_bytes() < 64 * 2**30
