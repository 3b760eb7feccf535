"""The main job: apply a resource, see it Ready, and find every bit where it belongs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file

from demo import checkpoints, scenario
from demo.checkpoints import Store
from demo.scenario import DEMO_NAMESPACE
from tests.e2e.world import READY_SECONDS, World, manifest

pytestmark = pytest.mark.e2e

Tensors = dict[str, torch.Tensor]
ENTRYPOINT = Path(__file__).with_name("dump_entrypoint.py")
PLACE = "main-job"
"""Where in the bucket the layouts go: a place of their own, where no other test has cut them."""
STORAGE = {"uri": f"s3://shards/{PLACE}"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that became Ready, with what its ranks hold in memory."""

    name: str
    original: Tensors
    status: dict[str, Any]
    layout: dict[str, Any]
    held: list[Tensors]


def dumping(name: str) -> dict[str, Any]:
    """The demo's manifest ``name`` with the dumping entrypoint mounted into its ranks."""
    resource = manifest(name, base=name, storage=STORAGE)
    endpoint = resource["spec"]["storage"]["endpointUrl"]
    container = {
        "name": "rank",
        "env": [
            {"name": "PYTHONPATH", "value": "/opt/dump"},
            {"name": "DUMP_PREFIX", "value": name},
            {"name": "DUMP_ENDPOINT_URL", "value": endpoint},
        ],
        "volumeMounts": [{"name": "dump", "mountPath": "/opt/dump"}],
    }
    volume = {"name": "dump", "configMap": {"name": "dump"}}
    resource["spec"]["workers"] |= {
        "entrypoint": "dump_entrypoint:dump",
        "template": {"spec": {"containers": [container], "volumes": [volume]}},
    }
    return resource


def read_object(store: Store, key: str) -> bytes:
    """One object of the bucket ``shards``."""
    with closing(store.client()) as client:
        body: bytes = client.get_object(Bucket="shards", Key=key)["Body"].read()
    return body


def has_object(world: World, key: str) -> bool:
    """Whether the bucket ``shards`` holds ``key``."""
    with closing(world.store.client()) as client:
        return "Contents" in client.list_objects_v2(Bucket="shards", Prefix=key)


@contextmanager
def ready(world: World, name: str, folder: Path) -> Iterator[Loaded]:
    """Apply one of the demo's models and collect everything there is to know of it."""
    original: Tensors = {}
    for path in folder.glob("*.safetensors"):
        original |= load_file(path)
    source = {"dump_entrypoint.py": ENTRYPOINT.read_text()}
    world.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dump"}, "data": source}
    )
    resource = dumping(name)
    keys = [
        f"dumps/{name}/{n}.safetensors" for n in range(resource["spec"]["parallelism"]["tensor"])
    ]
    with world.applied(resource):
        status = world.wait_ready(name)
        world.until(lambda: all(has_object(world, key) for key in keys), "the dumps", READY_SECONDS)
        key = f"{PLACE}/{status['sharding']['layoutHash']}/manifest.json"
        layout = json.loads(read_object(world.store, key))
        held = [load(read_object(world.store, key)) for key in keys]
        yield Loaded(name, original, status, layout, held)


@pytest.fixture(scope="module")
def minilm(world: World) -> Iterator[Loaded]:
    """BERT on two ranks."""
    with ready(world, "minilm", checkpoints.minilm_folder()) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def llama(world: World) -> Iterator[Loaded]:
    """Grouped-query attention on four ranks, several files with an index."""
    with ready(world, "llama", checkpoints.llama_folder(scenario.CACHE)) as loaded:
        yield loaded


@pytest.fixture(params=["minilm", "llama"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    """Each of the two in turn."""
    model: Loaded = request.getfixturevalue(request.param)
    return model


def cut_of(loaded: Loaded, name: str) -> dict[str, Any]:
    """How the manifest says that a tensor was cut."""
    numbers: dict[str, int] = dict(loaded.layout["tensors"])
    cut: dict[str, Any] = loaded.layout["cuts"][numbers[name]]
    return cut


def recombine(loaded: Loaded, name: str) -> torch.Tensor:
    """Put one tensor together again from what the ranks hold, by the manifest's word."""
    axes = cut_of(loaded, name)["axes"]
    if not axes:
        return loaded.held[0][name]
    [axis] = axes
    result = torch.full_like(loaded.original[name], -1)
    for held, ranges in zip(loaded.held, axis["ranges"], strict=True):
        at = 0
        for start, stop in ranges:
            piece = held[name].narrow(axis["dim"], at, stop - start)
            result.narrow(axis["dim"], start, stop - start).copy_(piece)
            at += stop - start
    return result


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit (NaN payloads too)."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(
            one.contiguous().flatten().view(torch.uint8),
            other.contiguous().flatten().view(torch.uint8),
        )
    )


def test_what_the_ranks_hold_recombines_to_the_checkpoint_bit_for_bit(loaded: Loaded) -> None:
    assert dict(loaded.layout["tensors"]).keys() == loaded.original.keys()
    different = [
        name
        for name, tensor in loaded.original.items()
        if not same_bits(recombine(loaded, name), tensor)
    ]
    assert different == []


def test_every_rank_holds_every_tensor(loaded: Loaded) -> None:
    assert all(held.keys() == loaded.original.keys() for held in loaded.held)


def test_the_source_was_read_exactly_once(loaded: Loaded) -> None:
    weights = sum(tensor.nbytes for tensor in loaded.original.values())
    sharding = loaded.status["sharding"]
    assert (sharding["sourceBytes"], sharding["sourceBytesRead"]) == (weights, weights)


def test_each_rank_read_exactly_the_bytes_of_its_objects(loaded: Loaded) -> None:
    for rank in loaded.status["ranks"]:
        objects = [each for each in loaded.layout["objects"] if rank["id"] in each["ranks"]]
        own = sum(each["bytes"] for each in objects)
        assert (rank["bytes"], rank["bytesRead"]) == (own, own)


def test_the_status_tells_the_whole_load(loaded: Loaded) -> None:
    load_status = loaded.status["load"]
    size = len(loaded.held)
    assert load_status["ranksLoaded"] == f"{size}/{size}"
    assert load_status["aggregateBytesPerSecond"] > 0
    names = {f"{rank['id']}@{rank['pod']}" for rank in loaded.status["ranks"]}
    assert load_status["slowestRank"] in names


def test_all_conditions_are_present_and_true(loaded: Loaded) -> None:
    conditions = {each["type"]: each["status"] for each in loaded.status["conditions"]}
    names = ("Ready", "Available", "Sharded", "Loaded", "GroupFormed")
    assert conditions == dict.fromkeys(names, "True")


def test_minilm_gives_the_same_embeddings_from_the_recombined_weights(minilm: Loaded) -> None:
    from transformers import AutoTokenizer, BertModel

    folder = checkpoints.minilm_folder()
    tokens = AutoTokenizer.from_pretrained(folder)(
        ["a sharded model", "cut once, loaded in parallel"], padding=True, return_tensors="pt"
    )
    reference = BertModel.from_pretrained(folder).train(False)
    rebuilt = BertModel(reference.config).train(False)
    rebuilt.load_state_dict(
        {name: recombine(minilm, name) for name in minilm.original}, strict=False
    )
    with torch.no_grad():
        expected = reference(**tokens).last_hidden_state.mean(1)
        assert torch.equal(rebuilt(**tokens).last_hidden_state.mean(1), expected)


def test_events_tell_each_step(world: World, loaded: Loaded) -> None:
    events = world.kubectl.get("events", "-n", DEMO_NAMESPACE)["items"]
    reasons = {
        event["reason"] for event in events if event["involvedObject"]["name"] == loaded.name
    }
    assert {"ShardingStarted", "Sharded", "Loaded", "Ready"} <= reasons


def test_pods_are_restricted_and_hold_no_api_token(world: World, loaded: Loaded) -> None:
    for pod in world.pods(loaded.name):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]


def test_the_users_object_is_left_as_it_was_applied(world: World, loaded: Loaded) -> None:
    metadata = world.model(loaded.name)["metadata"]
    assert "finalizers" not in metadata
    assert metadata["annotations"].keys() == {"kubectl.kubernetes.io/last-applied-configuration"}


def test_a_second_apply_changes_nothing(world: World, loaded: Loaded) -> None:
    def leaves_it() -> bool:
        before = world.model(loaded.name)["metadata"]["resourceVersion"]
        world.apply(dumping(loaded.name))
        return bool(world.model(loaded.name)["metadata"]["resourceVersion"] == before)

    # The operator may write in the same moment: ranks still dump, and their memory is in status.
    world.until(leaves_it, "an apply that changes nothing", 60)


def test_a_second_model_of_the_same_source_finds_the_finished_layout(
    world: World, minilm: Loaded
) -> None:
    with world.applied(manifest("twin", storage=STORAGE)) as twin:
        sharding = world.wait_ready(twin)["sharding"]
    assert sharding["layoutHash"] == minilm.status["sharding"]["layoutHash"]
    assert sharding["reused"] is True


def test_a_pod_can_hold_several_ranks(world: World) -> None:
    with world.applied(manifest("together", workers={"gpusPerPod": 2})) as name:
        status = world.wait_ready(name)
        ranks = [pod for pod in world.pods(name) if _is_rank(pod)]
    assert status["load"]["ranksLoaded"] == "2/2"
    assert len(ranks) == 1


def test_a_killed_rank_pod_comes_back_and_the_model_is_ready_again(world: World) -> None:
    with world.applied(manifest("mortal", base="minilm")) as name:
        world.wait_ready(name)
        ranks = [pod["metadata"]["name"] for pod in world.pods(name) if _is_rank(pod)]
        world.kubectl.run("delete", "pod", "-n", DEMO_NAMESPACE, max(ranks), "--wait=true")
        world.until(
            lambda: world.condition(name, "Ready").get("status") != "True",
            "Ready to fall",
            READY_SECONDS,
        )
        assert world.wait_ready(name)["load"]["ranksLoaded"] == "2/2"


def _is_rank(pod: dict[str, Any]) -> bool:
    return str(pod["metadata"]["ownerReferences"][0]["kind"]) == "StatefulSet"
