"""Sources of every form, and layouts as sources, on a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shardedmodel_runtime.checkpoint import CheckpointMetadata
from shardedmodel_runtime.cli import main
from shardedmodel_runtime.formats.hf import INDEX_KEY
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.layout import make_checkpoint, shard
from tests.integration.runtime.conftest import Bucket

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command against the server; gives its exit code and what it printed."""
    for name, value in bucket.server.environment.items():
        monkeypatch.setenv(name, value)

    def run_command(*arguments: str, sides: tuple[str, ...]) -> tuple[int, str]:
        endpoints = [
            text
            for side in sides
            for text in (f"--{side}-endpoint-url", bucket.server.endpoint_url)
        ]
        code = main([*arguments, *endpoints])
        return code, capsys.readouterr().out.strip()

    return run_command


@pytest.mark.parametrize(
    ("files", "indexed", "requests"),
    [(1, False, 3), (4, True, 2 + 4), (4, False, 3 + 1 + 4)],
)
def test_every_form_of_checkpoint_is_read_in_few_requests(
    bucket: Bucket, tmp_path: Path, files: int, indexed: bool, requests: int
) -> None:
    make_checkpoint(tmp_path / "m", files=files)
    if not indexed:
        (tmp_path / "m" / INDEX_KEY).unlink(missing_ok=True)
    source = bucket.upload(tmp_path / "m", "models/m")
    with bucket.open(source) as store, open_store((tmp_path / "m").as_uri()) as folder:
        found, expected = CheckpointMetadata.read(store), CheckpointMetadata.read(folder)
        assert store.requests == requests
    assert found.tensors == expected.tensors
    assert found.config == expected.config


def test_a_layout_is_cut_anew_planned_verified_and_undone(
    bucket: Bucket, tmp_path: Path, run: Run
) -> None:
    checkpoint = make_checkpoint(tmp_path / "m", files=3)
    source = bucket.upload(tmp_path / "m", "models/m")
    storage = f"{bucket.uri}/shards"
    code, text = run("plan", source, "--tensor", "4", "--json", sides=("source",))
    assert (code, json.loads(text)["bytes"]) == (0, checkpoint.tensor_bytes)
    both = ("source", "storage")
    first = run("shard", source, storage, "--tensor", "4", sides=both)[1]
    code, again = run("reshard", first, storage, "--tensor", "2", sides=both)
    assert (code, again) == (0, shard(source, storage, 2, bucket.open)[2])
    assert run("verify", again, sides=("storage",))[0] == 0
    assert run("unshard", again, str(tmp_path / "out"), sides=("storage",))[0] == 0
    with open_store((tmp_path / "out").as_uri()) as folder:
        tensors = CheckpointMetadata.read(folder).tensors
    data = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert {name: data[t.start : t.end] for name, t in tensors.items()} == checkpoint.tensors
    original = (tmp_path / "m" / "config.json").read_bytes()
    assert (tmp_path / "out" / "config.json").read_bytes() == original
