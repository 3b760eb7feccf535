from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.errors import LayoutError, LayoutNotFound, SourceChanged, Unavailable
from shardedmodel_runtime.layout import saver as saver_module
from shardedmodel_runtime.layout.manifest import read_manifest
from shardedmodel_runtime.layout.manifest_content import ManifestSource
from shardedmodel_runtime.layout.presharder import Presharder
from shardedmodel_runtime.layout.recombine import recombine_layout
from shardedmodel_runtime.layout.saver import WRITE_BUFFER_BYTES, CheckpointSaver
from shardedmodel_runtime.layout.uploads import PARTS_IN_FLIGHT
from shardedmodel_runtime.layout.verification import verify_layout
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.local import LocalStore, LocalWriter
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.reading import Reading
from shardedmodel_runtime.storage.s3 import MAX_PART_BYTES, MIN_PART_BYTES, S3Store
from shardedmodel_runtime.storage.uri import parse_uri
from tests.builders.layout import Checkpoint, make_checkpoint
from tests.measured_pool import MeasuredPool

SOURCE = ManifestSource(uri="file:///source", objects=[])
SMALLEST_PART = LocalStore.part_limits[0]
ONE_OBJECT_AT_A_TIME = SMALLEST_PART * (PARTS_IN_FLIGHT + 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("source"), "llama", files=2)


def make(
    checkpoint: Checkpoint,
    layout: ObjectStore,
    tensor: int = 4,
    *,
    source: ObjectStore | None = None,
    **saver_options: Any,
) -> tuple[Presharder, CheckpointSaver]:
    metadata, plan = checkpoint.plan(tensor)
    saver = CheckpointSaver(layout, plan, "0" * 20, **saver_options)
    return presharder(source or open_store(checkpoint.uri), metadata, plan, saver), saver


def presharder(
    source: ObjectStore,
    metadata: CheckpointMetadata,
    plan: ShardingPlan,
    saver: CheckpointSaver,
    chunk_bytes: int = 1000,
) -> Presharder:
    return Presharder(source, metadata, plan, saver, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("chunk_bytes", [100, 1_000_000])
def test_what_was_cut_can_be_put_together_bit_for_bit(
    tmp_path: Path, family: str, tensor: int, chunk_bytes: int
) -> None:
    checkpoint = make_checkpoint(tmp_path / "source", family)
    metadata, plan = checkpoint.plan(tensor)
    with open_store(checkpoint.uri) as source, open_store((tmp_path / "out").as_uri()) as layout:
        saver = CheckpointSaver(layout, plan, "0" * 20)
        presharder(source, metadata, plan, saver, chunk_bytes).run()
        manifest = saver.commit(SOURCE)
        verified = verify_layout(layout, manifest)
        tensors = dict(recombine_layout(manifest, layout, verified.digests))
    assert tensors == checkpoint.tensors


def test_every_byte_of_the_source_is_read_once(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with open_store(checkpoint.uri) as source, open_store(tmp_path.as_uri()) as layout:
        run, _ = make(checkpoint, layout, source=source)
        run.run()
        assert source.bytes_read == checkpoint.tensor_bytes


def test_sixty_four_ranks_are_written_in_one_pass_that_reads_every_byte_once(
    tmp_path: Path,
) -> None:
    config = {"num_attention_heads": 64, "num_key_value_heads": 4, "hidden_size": 128}
    checkpoint = make_checkpoint(tmp_path / "source", config=config)
    with open_store(checkpoint.uri) as source, open_store((tmp_path / "out").as_uri()) as layout:
        run, saver = make(checkpoint, layout, tensor=64, source=source)
        assert len(saver.objects) == 65
        assert len(saver.passes(saver.objects)) == 1
        run.run()
        assert source.bytes_read == checkpoint.tensor_bytes


def test_more_ranks_than_the_budget_holds_are_written_in_several_passes(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    with open_store(tmp_path.as_uri()) as layout:
        run, saver = make(checkpoint, layout, buffer_bytes=ONE_OBJECT_AT_A_TIME)
        assert [len(group) for group in saver.passes(saver.objects)] == [1] * 5
        run.run()
        manifest = saver.commit(SOURCE)
        verified = verify_layout(layout, manifest)
        assert dict(recombine_layout(manifest, layout, verified.digests)) == checkpoint.tensors


@pytest.fixture
def s3_saver(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A saver that has to keep to the limits of S3."""
    monkeypatch.setattr(LocalStore, "part_limits", S3Store.part_limits)
    with open_store(tmp_path.as_uri()) as layout:
        yield make(checkpoint, layout)[1]


def test_the_budget_decides_the_parts(s3_saver: CheckpointSaver) -> None:
    assert s3_saver.part_bytes(17) == MAX_PART_BYTES
    assert s3_saver.part_bytes(33) == 9 * 2**20
    assert s3_saver.part_bytes(65) == MIN_PART_BYTES


@pytest.mark.parametrize("ranks", [1, 9, 17, 33, 65])
def test_one_part_of_each_object_and_those_in_flight_fit_the_budget(
    s3_saver: CheckpointSaver, ranks: int
) -> None:
    assert (ranks + PARTS_IN_FLIGHT) * s3_saver.part_bytes(ranks) <= WRITE_BUFFER_BYTES


def test_buffers_stay_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[MeasuredPool] = []

    def measured(limit_bytes: int) -> MeasuredPool:
        pools.append(MeasuredPool(limit_bytes))
        return pools[-1]

    monkeypatch.setattr(saver_module, "BufferPool", measured)
    checkpoint = make_checkpoint(tmp_path / "source", config={"vocab_size": 64_000})
    budget = 7 * SMALLEST_PART
    with open_store((tmp_path / "out").as_uri()) as layout:
        run, saver = make(checkpoint, layout, tensor=1, buffer_bytes=budget)
        run.run()
        assert saver.bytes_written == sum(o.size for o in saver.objects) > 2 * SMALLEST_PART
    assert 0 < max(pool.peak_bytes for pool in pools) <= budget


class ChangingStore(LocalStore):
    """A source whose files change after a number of reads."""

    def __init__(self, uri: str, reads: int) -> None:
        super().__init__(parse_uri(uri))
        self._left = reads

    def read_range(
        self,
        key: str,
        start: int,
        into: memoryview,
        *,
        digest: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        self._left -= 1
        if self._left < 0:
            raise SourceChanged(f"{self.uri}/{key}: the file changed while it was being read")
        super().read_range(key, start, into, digest=digest, reading=reading)


def test_a_source_that_changes_midway_leaves_nothing(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    with open_store(tmp_path.as_uri()) as layout:
        source = ChangingStore(checkpoint.uri, reads=5)
        run, _ = make(checkpoint, layout, source=source)
        with pytest.raises(SourceChanged):
            run.run()
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class FullStore(LocalStore):
    """A storage that takes no parts."""

    def open_writer(self, key: str, size: int, part_bytes: int) -> LocalWriter:
        writer = super().open_writer(key, size, part_bytes)

        def refuse(index: int, data: bytes | bytearray) -> None:
            raise Unavailable("the disk is full")

        writer.write_part = refuse  # type: ignore[method-assign]
        return writer


def test_a_storage_that_fails_leaves_no_manifest(tmp_path: Path, checkpoint: Checkpoint) -> None:
    layout = FullStore(parse_uri(tmp_path.as_uri()))
    run, saver = make(checkpoint, layout)
    with pytest.raises(Unavailable, match="the disk is full"):
        run.run()
    with pytest.raises(LayoutNotFound):
        read_manifest(layout)
    with pytest.raises(LayoutError, match="5 objects are not written yet"):
        saver.commit(SOURCE)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_tensor_of_no_open_object_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with open_store(tmp_path.as_uri()) as layout:
        _, saver = make(checkpoint, layout)
        with (
            pytest.raises(LayoutError, match="'nope' of rank 0 is in no open object"),
            saver.writing(saver.objects[:1]) as sink,
        ):
            sink.write(0, "nope", memoryview(b""))


def test_the_manifest_of_who_came_first_stands(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with open_store(tmp_path.as_uri()) as layout:
        for revision in ("first", "second"):
            run, saver = make(checkpoint, layout)
            run.run()
            saver.commit(ManifestSource(uri="file:///source", revision=revision, objects=[]))
        assert read_manifest(layout).source.revision == "first"
