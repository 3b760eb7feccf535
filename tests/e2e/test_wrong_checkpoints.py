"""A wrong checkpoint ends in a condition that names the file and says what to do."""

from __future__ import annotations

import io
import json
import struct
from contextlib import closing

import pytest

from tests.e2e.world import World, manifest

pytestmark = pytest.mark.e2e


def put(world: World, key: str, data: bytes) -> None:
    """Write one object into the bucket ``models``."""
    with closing(world.store.client()) as client:
        client.upload_fileobj(io.BytesIO(data), "models", key)


def layouts(world: World) -> set[str]:
    """Hashes of all layouts that have a manifest."""
    with closing(world.store.client()) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="shards")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {key.split("/")[0] for key in keys if key.endswith("/manifest.json")}


def bert_config() -> bytes:
    """A config.json that is right, so that only the weights are wrong."""
    config = {"model_type": "bert", "num_attention_heads": 12, "hidden_size": 384}
    return json.dumps({**config, "vocab_size": 30522, "num_hidden_layers": 6}).encode()


def truncated_safetensors() -> bytes:
    """A header that promises 4 MB of weights, and none behind it."""
    entry = {"dtype": "F32", "shape": [1024, 1024], "data_offsets": [0, 4 * 1024 * 1024]}
    header = json.dumps({"encoder.layer.0.attention.self.query.weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header


def hostile_safetensors() -> bytes:
    """A length field that asks the reader for 2**62 bytes."""
    return struct.pack("<Q", 2**62) + b"{}"


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        pytest.param(truncated_safetensors(), "InvalidSafetensors", id="truncated"),
        pytest.param(hostile_safetensors(), "InvalidSafetensors", id="hostile length"),
    ],
)
def test_a_broken_checkpoint_is_named_and_publishes_nothing(
    world: World, weights: bytes, reason: str
) -> None:
    before = layouts(world)
    put(world, "broken/config.json", bert_config())
    put(world, "broken/model.safetensors", weights)
    with world.applied(manifest("broken", source={"uri": "s3://models/broken"})) as name:
        condition = world.wait_reason(name, reason)
    assert "model.safetensors" in condition["message"]
    assert layouts(world) == before


def test_a_checkpoint_of_pickles_only_is_refused(world: World) -> None:
    put(world, "pickles/config.json", bert_config())
    put(world, "pickles/pytorch_model.bin", b"\x80\x02}q\x00.")
    with world.applied(manifest("pickles", source={"uri": "s3://models/pickles"})) as name:
        condition = world.wait_reason(name, "PickleCheckpoint")
    assert "safetensors" in condition["message"]
