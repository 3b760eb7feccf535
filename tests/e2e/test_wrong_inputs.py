"""Each wrong input ends in a condition whose reason and message say what to do."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest

from demo.scenario import DEMO_NAMESPACE
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


class Wrong(NamedTuple):
    """A spec that cannot work, and how the model tells."""

    spec: dict[str, Any]
    reason: str
    named: str
    """What the message names."""
    base: str = "minilm"


WRONG_SPECS = {
    "three-for-four-heads": Wrong(
        {"parallelism": {"tensor": 3}}, "InvalidSharding", "3", base="llama"
    ),
    "no-bucket": Wrong({"source": {"uri": "s3://no-such-bucket/x"}}, "NotFound", "no-such-bucket"),
    "no-key": Wrong({"source": {"uri": "s3://models/no-such"}}, "NotFound", "models/no-such"),
    "no-secret": Wrong(
        {"source": {"credentialsSecretRef": {"name": "no-such-secret"}}},
        "SecretNotFound",
        "no-such-secret",
    ),
    "no-image": Wrong(
        {"workers": {"image": "localhost/no-such-image:1"}}, "ImagePullFailed", "no-such-image"
    ),
    "no-room": Wrong(
        {"workers": {"resources": {"requests": {"cpu": "500"}}}}, "Unschedulable", "cpu"
    ),
}
"""By the names of their models."""


@pytest.fixture(scope="module")
def wrong_models(world: World) -> Iterator[None]:
    """All of them at once: most of them wait for the kubelet, which takes its time."""
    for name, wrong in WRONG_SPECS.items():
        world.apply(manifest(name, wrong.base, **wrong.spec))
    yield
    world.delete(*WRONG_SPECS)


@pytest.mark.usefixtures("wrong_models")
@pytest.mark.parametrize("name", WRONG_SPECS)
def test_a_wrong_spec_is_explained_by_a_condition(world: World, name: str) -> None:
    wrong = WRONG_SPECS[name]
    assert wrong.named in world.wait_reason(name, wrong.reason)["message"]


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        pytest.param({"parallelism": {"tensor": 0}}, "tensor", id="tensor 0"),
        pytest.param({"source": {"uri": "ftp://models/minilm"}}, "uri", id="unknown scheme"),
        pytest.param({"workers": {"backend": "mpi"}}, "backend", id="unknown backend"),
    ],
)
def test_an_impossible_spec_is_refused_or_explained(
    world: World, spec: dict[str, Any], named: str
) -> None:
    """The API server refuses what the schema or CEL knows; the operator explains the rest."""
    from demo.console import DemoError

    try:
        with world.applied(manifest("impossible", **spec)) as name:
            message = world.wait_reason(name, "InvalidSpec")["message"]
    except DemoError as refusal:
        message = str(refusal)
    assert named in message


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


def secret(key: str) -> dict[str, Any]:
    """A Secret with the demo's access key and ``key`` as its secret key."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "healing-s3", "namespace": DEMO_NAMESPACE},
        "stringData": {"AWS_ACCESS_KEY_ID": "demo-access-key", "AWS_SECRET_ACCESS_KEY": key},
    }


def test_a_corrected_secret_heals_without_a_delete(world: World) -> None:
    world.apply(secret("wrong"))
    resource = manifest("healing", source={"credentialsSecretRef": {"name": "healing-s3"}})
    with world.applied(resource) as name:
        world.wait_reason(name, "AccessDenied")
        world.apply(secret("demo-secret-key"))
        assert world.wait_ready(name)["load"]["ranksLoaded"] == "2/2"


def test_a_corrected_spec_heals_without_a_delete(world: World) -> None:
    with world.applied(manifest("mended", source={"uri": "s3://models/typo"})) as name:
        world.wait_reason(name, "NotFound")
        world.apply(manifest("mended"))
        assert world.wait_ready(name)["load"]["ranksLoaded"] == "2/2"
