"""What was wrong heals once it is corrected, without a delete."""

from __future__ import annotations

from typing import Any

import pytest

from demo.scenario import DEMO_NAMESPACE
from tests.e2e.world import World, manifest

pytestmark = pytest.mark.e2e


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
