"""A wrong spec is refused, or ends in a condition whose reason and message say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from demo.console import DemoError
from tests.e2e.world import World, manifest

pytestmark = pytest.mark.e2e


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
    try:
        with world.applied(manifest("impossible", **spec)) as name:
            message = world.wait_reason(name, "InvalidSpec")["message"]
    except DemoError as refusal:
        message = str(refusal)
    assert named in message
