"""What a spec can choose beyond the demo: stages, another dtype, a layout that ends with it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from shardedmodel_runtime.layout.manifest import Manifest
from tests.e2e.world import READY_SECONDS, World, manifest

pytestmark = pytest.mark.e2e

INDEXED_JOBS = (1, 24)
"""The version from which servers have them."""
INDEX = "batch.kubernetes.io/job-completion-index"


def layout_of(world: World, status: dict[str, Any]) -> Manifest:
    """The manifest of the layout that a model's ranks loaded."""
    key = f"{status['sharding']['layoutHash']}/manifest.json"
    with closing(world.store.client()) as client:
        return Manifest.parse(client.get_object(Bucket="shards", Key=key)["Body"].read())


def names_of(layout: Manifest, rank: int) -> set[str]:
    """The tensors that a rank holds."""
    objects = layout.objects_of(rank)
    return {placed.name for item in objects for placed in layout.placed(item)}


def test_each_stage_of_a_pipeline_holds_layers_of_its_own(world: World) -> None:
    with world.applied(manifest("staged", parallelism={"tensor": 1, "pipeline": 2})) as name:
        layout = layout_of(world, world.wait_ready(name))
    first, second = names_of(layout, 0), names_of(layout, 1)
    assert first | second == set(layout.tensors)
    assert {name for name in first & second if "encoder.layer." in name} == set()


def test_weights_are_cast_where_the_spec_says_so(world: World) -> None:
    with world.applied(manifest("small", sharding={"dtype": "float16"})) as name:
        status = world.wait_ready(name)
        layout = layout_of(world, status)
    cast = {cut.dtype for cut in layout.tensors.values() if cut.cast_from == "F32"}
    assert cast == {"F16"}
    assert status["sharding"]["bytes"] < status["sharding"]["sourceBytes"] * 0.6


def test_a_layout_goes_with_its_model_where_the_spec_says_so(world: World) -> None:
    passing = manifest("passing", sharding={"dtype": "bfloat16"}, storage={"retention": "Delete"})
    with world.applied(passing) as name:
        layout_hash = world.wait_ready(name)["sharding"]["layoutHash"]

    def keys() -> list[str]:
        with closing(world.store.client()) as client:
            found = client.list_objects_v2(Bucket="shards", Prefix=f"{layout_hash}/")
        return [item["Key"] for item in found.get("Contents", [])]

    world.until(lambda: not keys(), "the layout to be gone", READY_SECONDS, lambda: str(keys()))


def test_pods_share_the_cutting_on_servers_with_indexed_jobs(world: World) -> None:
    shared = manifest(
        "shared",
        parallelism={"tensor": 1, "pipeline": 2},
        sharding={"dtype": "bfloat16", "workers": 3},
    )
    with world.applied(shared) as name:
        if world.kubernetes() < INDEXED_JOBS:
            assert "completionMode" in world.wait_reason(name, "ObjectRejected")["message"]
            return
        status = world.wait_ready(name)
        phases = {
            pod["metadata"]["annotations"][INDEX]: pod["status"]["phase"]
            for pod in world.pods(name)
            if INDEX in pod["metadata"].get("annotations", {})
        }
        layout = layout_of(world, status)
    assert phases == dict.fromkeys(("0", "1", "2"), "Succeeded")
    assert names_of(layout, 0) | names_of(layout, 1) == set(layout.tensors)
