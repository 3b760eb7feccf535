"""A layout cut by the real Job on a real S3 server, loaded rank by rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardedmodel_runtime.errors import AccessDenied, LayoutNotFound
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import load
from shardedmodel_runtime.loading.shard import LoadedShard
from tests.builders.layout import Checkpoint, make_checkpoint, recombine_ranks, shard
from tests.builders.rank_layout import raw
from tests.integration.runtime.conftest import Bucket

pytestmark = pytest.mark.integration


@pytest.fixture
def endpoint(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server, with its credentials in the environment as in a pod."""
    for name, value in bucket.server.environment.items():
        monkeypatch.setenv(name, value)
    return str(bucket.server.endpoint_url)


def cut(bucket: Bucket, folder: Path, tensor: int) -> tuple[Checkpoint, str]:
    checkpoint = make_checkpoint(folder, "llama")
    return checkpoint, shard(checkpoint.uri, bucket.uri, tensor, bucket.open)[2]


def load_all(layout: str, endpoint: str, world_size: int) -> list[LoadedShard]:
    return [
        load(
            ModelLoadConfig(
                layout=layout, endpoint_url=endpoint, world_size=world_size, rank=rank, device="cpu"
            )
        )
        for rank in range(world_size)
    ]


def recombined(shards: list[LoadedShard]) -> dict[str, bytes]:
    """Put the tensors together from what the ranks hold in memory."""
    held = {
        shard.rank: {name: raw(tensor) for name, tensor in shard.state_dict.items()}
        for shard in shards
    }
    return recombine_ranks(shards[0].manifest, held)


def test_ranks_together_hold_every_tensor_bit_for_bit(
    bucket: Bucket, endpoint: str, tmp_path: Path
) -> None:
    checkpoint, layout = cut(bucket, tmp_path, 2)
    shards = load_all(layout, endpoint, 2)
    assert recombined(shards) == checkpoint.tensors


def test_each_rank_reads_its_own_bytes_once(bucket: Bucket, endpoint: str, tmp_path: Path) -> None:
    _, layout = cut(bucket, tmp_path, 2)
    for loaded in load_all(layout, endpoint, 2):
        assert loaded.report.bytes_read == loaded.manifest.rank_bytes(loaded.rank)


def test_wrong_credentials_are_denied(
    bucket: Bucket, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, layout = cut(bucket, tmp_path, 1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDenied):
        load_all(layout, endpoint, 1)


def test_a_layout_that_is_not_there_is_not_found(bucket: Bucket, endpoint: str) -> None:
    with pytest.raises(LayoutNotFound):
        load_all(f"{bucket.uri}/0123abcd", endpoint, 1)
