"""The Job from a real S3 server to a real S3 server, as a pod runs it."""

from __future__ import annotations

import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from safetensors import safe_open

from shardedmodel_runtime.errors import NotFound, SourceChanged, Unavailable
from shardedmodel_runtime.layout.deletion import delete_layout
from shardedmodel_runtime.layout.job import ShardJob, ShardRequest
from shardedmodel_runtime.layout.manifest import read_manifest
from shardedmodel_runtime.layout.recombine import recombine_layout
from shardedmodel_runtime.layout.verification import verify_layout
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.parallelism import Parallelism
from shardedmodel_runtime.report import ShardProgress, ShardSummary
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.s3 import S3Store
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.layout import Checkpoint, make_checkpoint, missing_source_bytes, shard
from tests.integration.runtime.conftest import Bucket
from tests.integration.runtime.layout.shard_command import Command, records, records_at_rest
from tests.relays import Relay

pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    """82 MB, of which two tensors are 41 MB each: several parts, and long enough to be killed."""
    folder = tmp_path_factory.mktemp("large")
    return folder, make_checkpoint(folder, config={"vocab_size": 320_000})


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    """300 MB: at two ranks each has several parts of its own."""
    folder = tmp_path_factory.mktemp("several")
    return folder, make_checkpoint(folder, config={"intermediate_size": 380_000})


def digests(bucket: Bucket, summary: ShardSummary) -> dict[str, str]:
    """SHA-256 of each object of a layout that is verified first."""
    with bucket.open(summary.manifest_uri.removesuffix(f"/{MANIFEST_KEY}")) as store:
        manifest = read_manifest(store)
        assert verify_layout(store, manifest).problems == []
    return {item.key: item.sha256 for item in manifest.objects}


@pytest.fixture
def command() -> Iterator[Callable[..., Command]]:
    """Start commands that do not outlive the test."""
    started: list[Command] = []

    def start(bucket: Bucket, source: str, *flags: str, tensor: int = 1) -> Command:
        started.append(Command(bucket, source, *flags, tensor=tensor))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.end()


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_a_round_trip_is_bit_for_bit(
    bucket: Bucket, tmp_path: Path, family: str, tensor: int
) -> None:
    checkpoint = make_checkpoint(tmp_path, family)
    source = bucket.upload(tmp_path, "model")
    summary, manifest, uri = shard(source, f"{bucket.uri}/shards", tensor, bucket.open)
    with bucket.open(uri) as store:
        verified = verify_layout(store, manifest)
        assert dict(recombine_layout(manifest, store, verified.digests)) == checkpoint.tensors
    assert verified.problems == []
    assert summary.source_bytes_read == checkpoint.tensor_bytes
    assert bucket.uploads() == []


def test_every_object_opens_with_safetensors(bucket: Bucket, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, files=2)
    source = bucket.upload(tmp_path, "model")
    _, manifest, uri = shard(source, f"{bucket.uri}/shards", 2, bucket.open)
    with bucket.open(uri) as store:
        for item in manifest.objects:
            path = tmp_path / "object"
            path.write_bytes(store.read(item.key, limit=item.bytes))
            with safe_open(path, "np") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            assert shapes == {one.name: list(one.piece.shape) for one in manifest.placed(item)}


def test_a_second_run_reads_no_weights(bucket: Bucket, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "bert")
    source = bucket.upload(tmp_path, "model")
    shard(source, f"{bucket.uri}/shards", 2, bucket.open)
    stores: list[ObjectStore] = []

    def remember(uri: str) -> ObjectStore:
        stores.append(bucket.open(uri))
        return stores[-1]

    request = ShardRequest(source, f"{bucket.uri}/shards", Parallelism(2))
    summary = ShardJob(request, remember, bucket.open).run()
    header = stores[0].bytes_read
    assert (summary.reused, summary.source_bytes_read) == (True, 0)
    assert header == len((tmp_path / "config.json").read_bytes()) + min(
        256 * 1024, (tmp_path / "model.safetensors").stat().st_size
    )


def test_large_objects_go_in_parts_and_come_back(
    bucket: Bucket, large: tuple[Path, Checkpoint]
) -> None:
    folder, checkpoint = large
    source = bucket.upload(folder, "model")
    summary, manifest, uri = shard(source, f"{bucket.uri}/shards", 2, bucket.open)
    assert summary.source_bytes_read == checkpoint.tensor_bytes
    assert max(len(item.blocks) for item in manifest.objects) >= 3
    with bucket.open(uri) as store:
        assert verify_layout(store, manifest).problems == []
    assert bucket.uploads() == []


def test_two_at_once_make_one_layout(bucket: Bucket, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "bert")
    source = bucket.upload(tmp_path, "model")
    summaries: list[ShardSummary] = []

    def run() -> None:
        summaries.append(shard(source, f"{bucket.uri}/shards", 2, bucket.open)[0])

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({summary.manifest_uri for summary in summaries}) == 1
    with bucket.open(f"{bucket.uri}/shards/{summaries[0].layout_hash}") as store:
        assert verify_layout(store, read_manifest(store)).problems == []


def test_a_source_that_changes_midway_is_noticed(bucket: Bucket, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "bert", files=2)
    source = bucket.upload(tmp_path, "model")
    with bucket.open(f"{bucket.uri}/shards") as storage:
        opened: list[str] = []

        def open_storage(uri: str) -> ObjectStore:
            opened.append(uri)
            if len(opened) == 2:  # the layout's own folder: the headers have been read by now
                make_checkpoint(tmp_path, "bert", files=2, seed=1)
                bucket.upload(tmp_path, "model")
            return bucket.open(uri)

        request = ShardRequest(source, storage.uri, Parallelism(2))
        with pytest.raises(SourceChanged, match="changed while it was being read"):
            ShardJob(request, bucket.open, open_storage).run()
    assert bucket.keys("shards/") == []


def test_a_missing_storage_bucket_is_told_before_any_weight_is_read(
    bucket: Bucket, tmp_path: Path
) -> None:
    make_checkpoint(tmp_path, "bert")
    source = bucket.upload(tmp_path, "model")
    with pytest.raises(NotFound, match="s3://no-such-bucket/x: the bucket does not exist"):
        shard(source, "s3://no-such-bucket/x", 2, bucket.open)


@pytest.mark.parametrize("finished", [0, 1, 3])
def test_a_killed_job_is_resumed_where_it_was(
    bucket: Bucket,
    tmp_path: Path,
    several: tuple[Path, Checkpoint],
    command: Callable[..., Command],
    finished: int,
) -> None:
    folder, _ = several
    undisturbed = shard(folder.as_uri(), tmp_path.as_uri(), 2)[1]
    source = bucket.upload(folder, "model")
    killed = command(bucket, source, tensor=2)
    killed.wait_until_uploading(bucket)
    killed.wait_until_finished(bucket, finished)
    killed.process.send_signal(signal.SIGKILL)
    assert killed.end()[0] == -signal.SIGKILL
    assert not [key for key in bucket.keys("shards/") if key.endswith(MANIFEST_KEY)]
    done = {key.split("/", 2)[2] for key in records_at_rest(bucket)}
    assert finished <= len(done) < len(undisturbed.objects)
    summary = command(bucket, source, tensor=2).summary()
    assert digests(bucket, summary) == {o.key: o.sha256 for o in undisturbed.objects}
    assert summary.source_bytes_read == missing_source_bytes(undisturbed, done)
    assert bucket.uploads() == []
    assert records(bucket) == []


def test_two_jobs_at_once_do_each_other_no_harm(
    bucket: Bucket, several: tuple[Path, Checkpoint], command: Callable[..., Command]
) -> None:
    source = bucket.upload(several[0], "model")
    jobs = [command(bucket, source, tensor=2) for _ in range(2)]
    summaries = [job.summary() for job in jobs]
    assert len({summary.manifest_uri for summary in summaries}) == 1
    assert digests(bucket, summaries[0])
    assert bucket.uploads() == []


def test_three_workers_read_the_source_once_together(
    bucket: Bucket, several: tuple[Path, Checkpoint], command: Callable[..., Command]
) -> None:
    folder, checkpoint = several
    source = bucket.upload(folder, "model")
    workers = ("--workers", "3", "--worker-index")
    jobs = [command(bucket, source, *workers, str(index), tensor=1) for index in range(3)]
    summaries = [job.summary() for job in jobs]
    assert any(summary.complete for summary in summaries)
    assert min(summary.source_bytes_read for summary in summaries) > 0
    assert sum(summary.source_bytes_read for summary in summaries) == checkpoint.tensor_bytes
    assert digests(bucket, summaries[0])
    assert bucket.uploads() == []


def test_a_terminated_job_publishes_nothing(
    bucket: Bucket, large: tuple[Path, Checkpoint], command: Callable[..., Command]
) -> None:
    job = command(bucket, bucket.upload(large[0], "model"))
    job.wait_until_uploading(bucket)
    job.process.send_signal(signal.SIGTERM)
    assert job.end()[0] == 128 + signal.SIGTERM
    assert not [key for key in bucket.keys("shards/") if key.endswith(MANIFEST_KEY)]
    assert bucket.uploads() == []


def test_a_terminated_job_whose_parts_hang_aborts_them(
    bucket: Bucket, large: tuple[Path, Checkpoint], command: Callable[..., Command]
) -> None:
    source = bucket.upload(large[0], "model")
    server = urlsplit(bucket.server.endpoint_url)
    with Relay((str(server.hostname), int(server.port or 0)), most_bytes=1_000_000) as relay:
        url = f"http://127.0.0.1:{relay.port}"
        job = command(bucket, source, "--storage-endpoint-url", url)
        job.wait_until_uploading(bucket)
        job.process.send_signal(signal.SIGTERM)
        code, _, err = job.end()
    assert code == 128 + signal.SIGTERM, err
    assert b"error: Terminated: " in err
    assert bucket.uploads() == []


def test_what_a_killed_job_had_begun_can_be_deleted(
    bucket: Bucket, large: tuple[Path, Checkpoint], command: Callable[..., Command]
) -> None:
    job = command(bucket, bucket.upload(large[0], "model"))
    job.wait_until_uploading(bucket)
    job.process.kill()
    job.end()
    assert bucket.uploads() != []
    (layout,) = {key.split("/")[1] for key in (*bucket.keys("shards/"), *bucket.uploads())}
    with bucket.open(f"{bucket.uri}/shards/{layout}") as store:
        delete_layout(store)
    assert (bucket.keys("shards/"), bucket.uploads()) == ([], [])


def test_progress_is_served_while_the_job_runs(
    bucket: Bucket,
    large: tuple[Path, Checkpoint],
    unused_port: int,
    command: Callable[..., Command],
) -> None:
    job = command(bucket, bucket.upload(large[0], "model"), "--port", str(unused_port))
    address = f"http://127.0.0.1:{unused_port}"
    job.wait_until_uploading(bucket)
    with urllib.request.urlopen(f"{address}/report", timeout=5) as answer:
        progress = ShardProgress.model_validate_json(answer.read())
    with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    code, out, err = job.end()
    assert code == 0, err
    summary = ShardSummary.model_validate_json(out)
    assert (progress.bytes, progress.layout_hash) == (summary.bytes, summary.layout_hash)
    assert f"shardedmodel_shard_bytes {progress.bytes}\n" in metrics


class Refusing(S3Store):
    """A storage that takes a number of parts and then no more."""

    parts = 3

    def _request(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        if operation == "upload_part":
            self.parts -= 1
            if self.parts < 0:
                raise Unavailable(f"{self.uri}/{key}: the store is unavailable")
        return super()._request(operation, key, **arguments)


def test_a_storage_that_fails_midway_is_one_error_and_leaves_nothing(
    bucket: Bucket, large: tuple[Path, Checkpoint]
) -> None:
    def open_storage(uri: str) -> ObjectStore:
        return Refusing(parse_uri(uri), bucket.options(), RetryPolicy(attempts=1))

    source = bucket.upload(large[0], "model")
    request = ShardRequest(source, f"{bucket.uri}/shards", Parallelism(2))
    with pytest.raises(Unavailable, match=r"part-00000\.safetensors: the store is unavailable"):
        ShardJob(request, bucket.open, open_storage).run()
    assert bucket.uploads() == []
    assert not [key for key in bucket.keys("shards/") if key.endswith(MANIFEST_KEY)]
