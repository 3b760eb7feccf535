"""What a Job finds of the work of others, and what it reads again."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.errors import NotFound, Terminated, Unavailable
from shardedmodel_runtime.layout import objects
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.layout.records import record_key
from shardedmodel_runtime.layout.verification import verify_layout
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.report import ShardSummary
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.local import TEMPORARY_PREFIX, LocalStore
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.layout import Checkpoint, make_checkpoint, missing_source_bytes, shard

SMALL_PARTS = 20_000
"""Bytes of a rank's part: the small Llama, at two ranks, then has several runs."""


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setattr(objects.plan_objects, "__defaults__", (SMALL_PARTS,))
    return make_checkpoint(tmp_path / "source", files=2)


class FailingStore(LocalStore):
    """A storage that publishes a number of objects and then calls ``fails``."""

    def __init__(self, uri: str, objects: int, fails: Callable[[], None]) -> None:
        super().__init__(parse_uri(uri))
        self._left = objects
        self._fails = fails

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        if self._left == 0:
            self._fails()
        self._left -= 1
        return super().write(key, data, if_absent=if_absent)


def refuse() -> None:
    raise Unavailable("the storage is gone")


def run(
    checkpoint: Checkpoint,
    storage: str,
    open_storage: Callable[[str], ObjectStore] = open_store,
    **request: Any,
) -> ShardSummary:
    wanted = ShardRequest(checkpoint.uri, storage, Parallelism(2), **request)
    return ShardJob(wanted, open_store, open_storage).run()


def digests(manifest: Manifest) -> dict[str, str]:
    return {item.key: item.sha256 for item in manifest.objects}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def finished_files(manifest: Manifest) -> set[str]:
    return {MANIFEST_KEY, "source/config.json", *(item.key for item in manifest.objects)}


@pytest.fixture
def undisturbed(tmp_path: Path, checkpoint: Checkpoint) -> Manifest:
    return shard(checkpoint.uri, (tmp_path / "undisturbed").as_uri(), 2)[1]


@pytest.mark.parametrize("finished", [0, 1, 3, 5])
def test_what_is_finished_is_neither_read_nor_written_again(
    tmp_path: Path, checkpoint: Checkpoint, undisturbed: Manifest, finished: int
) -> None:
    storage = (tmp_path / "shards").as_uri()
    with pytest.raises(Unavailable):
        run(checkpoint, storage, lambda uri: FailingStore(uri, finished, refuse))
    folder = tmp_path / "shards" / undisturbed.layout_hash
    done = {
        item.key: (folder / item.key).stat().st_mtime_ns
        for item in undisturbed.objects
        if (folder / record_key(item.key)).exists()
    }
    summary = run(checkpoint, storage)
    with open_store(folder.as_uri()) as store:
        manifest = read_manifest(store)
        assert verify_layout(store, manifest).problems == []
    assert digests(manifest) == digests(undisturbed)
    assert {key: (folder / key).stat().st_mtime_ns for key in done} == done
    assert len(done) == finished
    assert summary.source_bytes_read == missing_source_bytes(undisturbed, done.keys())


def test_records_are_gone_once_the_manifest_is_there(
    tmp_path: Path, checkpoint: Checkpoint, undisturbed: Manifest
) -> None:
    folder = tmp_path / "undisturbed" / undisturbed.layout_hash
    assert files(folder) == finished_files(undisturbed)


def test_records_that_a_job_left_which_was_killed_after_its_commit_go_with_the_next(
    tmp_path: Path, checkpoint: Checkpoint, undisturbed: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = (tmp_path / "shards").as_uri()
    folder = tmp_path / "shards" / undisturbed.layout_hash
    deletions = itertools.count()

    def killed(*_: object) -> None:
        if next(deletions) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, storage)
    assert files(folder) > finished_files(undisturbed)
    assert run(checkpoint, storage).reused
    assert files(folder) == finished_files(undisturbed)


def test_an_object_that_changed_since_its_record_is_written_again(
    tmp_path: Path, checkpoint: Checkpoint, undisturbed: Manifest
) -> None:
    storage = (tmp_path / "shards").as_uri()
    with pytest.raises(Unavailable):
        run(checkpoint, storage, lambda uri: FailingStore(uri, 2, refuse))
    folder = tmp_path / "shards" / undisturbed.layout_hash
    for item in undisturbed.objects:
        path = folder / item.key
        if path.exists():
            path.write_bytes(bytes(path.stat().st_size))
    run(checkpoint, storage)
    with open_store(folder.as_uri()) as store:
        assert verify_layout(store, read_manifest(store)).problems == []


@pytest.mark.parametrize("record", [b"", b"{}", b"[1]"])
def test_a_record_that_is_none_is_not_believed(
    tmp_path: Path, checkpoint: Checkpoint, undisturbed: Manifest, record: bytes
) -> None:
    storage = (tmp_path / "shards").as_uri()
    with pytest.raises(Unavailable):
        run(checkpoint, storage, lambda uri: FailingStore(uri, 2, refuse))
    folder = tmp_path / "shards" / undisturbed.layout_hash
    for path in folder.rglob("*.safetensors.json"):
        path.write_bytes(record)
    assert run(checkpoint, storage).source_bytes_read == checkpoint.tensor_bytes


def test_what_a_killed_job_left_unfinished_is_cleaned_up(
    tmp_path: Path, checkpoint: Checkpoint, undisturbed: Manifest
) -> None:
    folder = tmp_path / "shards" / undisturbed.layout_hash
    left = folder / "common" / f"{TEMPORARY_PREFIX}0123"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half an object")
    run(checkpoint, (tmp_path / "shards").as_uri())
    assert files(folder) == finished_files(undisturbed)


def test_a_stop_drops_what_is_unfinished(tmp_path: Path, checkpoint: Checkpoint) -> None:
    request = ShardRequest(checkpoint.uri, (tmp_path / "shards").as_uri(), Parallelism(2))
    job = ShardJob(request, open_store, open_store)
    job.stop()
    with pytest.raises(Terminated):
        job.run()
    assert files(tmp_path / "shards") == set()


def test_who_comes_late_takes_the_layout_of_who_was_faster(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    storage = (tmp_path / "shards").as_uri()
    other: list[ShardSummary] = []

    def be_overtaken() -> None:
        if not other:
            other.append(run(checkpoint, storage))
        raise NotFound("the upload does not exist any more")

    late = run(checkpoint, storage, lambda uri: FailingStore(uri, 1, be_overtaken))
    assert (late.layout_hash, late.complete) == (other[0].layout_hash, True)
    folder = tmp_path / "shards" / late.layout_hash
    with open_store(folder.as_uri()) as store:
        assert verify_layout(store, read_manifest(store)).problems == []


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_workers_read_the_source_once_together(
    tmp_path: Path, checkpoint: Checkpoint, undisturbed: Manifest, workers: int
) -> None:
    storage = (tmp_path / "shards").as_uri()
    summaries = [run(checkpoint, storage, workers=workers, worker=i) for i in range(workers)]
    read = [summary.source_bytes_read for summary in summaries]
    assert sum(read) == checkpoint.tensor_bytes
    assert all(count < checkpoint.tensor_bytes for count in read)
    assert summaries[-1].complete
    assert summaries[0].bytes == undisturbed.total_bytes
    with open_store(f"{storage}/{summaries[0].layout_hash}") as store:
        assert digests(read_manifest(store)) == digests(undisturbed)


def test_workers_at_once_commit_one_layout(
    tmp_path: Path, checkpoint: Checkpoint, undisturbed: Manifest
) -> None:
    storage = (tmp_path / "shards").as_uri()
    summaries: list[ShardSummary] = []

    def work(worker: int) -> None:
        summaries.append(run(checkpoint, storage, workers=3, worker=worker))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(summary.complete for summary in summaries)
    with open_store(f"{storage}/{summaries[0].layout_hash}") as store:
        assert digests(read_manifest(store)) == digests(undisturbed)
