"""Real ranks of a real (gloo) group over loopback save what they hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.layout.recombine import recombine_layout
from shardedmodel_runtime.layout.verification import verify_layout
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.rank.network import interface_of
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.layout import Checkpoint, make_checkpoint, shard

pytestmark = pytest.mark.integration

RANK = Path(__file__).with_name("saving_rank.py")


class Ranks:
    """Processes of one group that save whatever they are asked to."""

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        environment = os.environ | {"GLOO_SOCKET_IFNAME": interface_of("127.0.0.1")}
        command = [sys.executable, str(RANK)]
        self._processes = [
            subprocess.Popen(
                [*command, str(rank), str(count), str(folder / "meeting")],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]

    def save(self, layout: str, new: str, fault: str) -> list[tuple[int, str]]:
        """Let all save at once; gives each one's exit code and words."""
        for process in self._processes:
            assert process.stdin
            process.stdin.write(json.dumps([layout, new, fault]) + "\n")
            process.stdin.flush()
        outcomes = []
        for process in self._processes:
            assert process.stdout
            code, words = json.loads(process.stdout.readline())
            outcomes.append((code, words))
        return outcomes

    def end(self) -> None:
        """Let them leave."""
        for process in self._processes:
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(tmp_path_factory.mktemp("pair"), 2)
    yield ranks
    ranks.end()


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Ranks]:
    ranks = Ranks(tmp_path, 4)
    yield ranks
    ranks.end()


class World:
    """A layout of a small Llama for some ranks, and where they save it."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.checkpoint: Checkpoint = make_checkpoint(
            folder / "source", "llama", config={"vocab_size": 315}
        )
        storage = (folder / "shards").as_uri()
        _, self.manifest, self.uri = shard(self.checkpoint.uri, storage, ranks.count)
        self.new = folder / "saved" / "step-100"
        self._ranks = ranks

    def save(self, fault: str = "") -> list[tuple[int, str]]:
        """Let every rank save; gives each one's exit code and words."""
        return self._ranks.save(self.uri, self.new.as_uri(), fault)

    def saved(self) -> tuple[Manifest, dict[str, bytes]]:
        """The new manifest, and every tensor of the new layout, verified and whole."""
        with open_store(self.new.as_uri()) as store:
            manifest = read_manifest(store)
            verified = verify_layout(store, manifest)
            assert verified.problems == []
            tensors = recombine_layout(manifest, store, verified.digests)
            return manifest, {name: bytes(data) for name, data in tensors}


def flipped(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)


def check_saved(world: World, fault: str = "") -> None:
    outcomes = world.save(fault)
    manifest, tensors = world.saved()
    assert set(outcomes) == {(0, manifest.layout_hash)}
    assert tensors == {name: flipped(data) for name, data in world.checkpoint.tensors.items()}
    assert [(item.key, item.ranks) for item in manifest.objects] == [
        (item.key, item.ranks) for item in world.manifest.objects
    ]
    assert manifest.layout_hash != world.manifest.layout_hash


@pytest.mark.parametrize("fault", ["", "order"])
def test_what_two_ranks_save_is_what_they_hold(tmp_path: Path, pair: Ranks, fault: str) -> None:
    check_saved(World(tmp_path, pair), fault)


def test_what_four_ranks_save_is_what_they_hold(tmp_path: Path, four: Ranks) -> None:
    check_saved(World(tmp_path, four))


def test_a_saved_layout_is_its_own_source_and_keeps_the_small_files(
    tmp_path: Path, pair: Ranks
) -> None:
    world = World(tmp_path, pair)
    world.save()
    manifest, _ = world.saved()
    assert manifest.source.uri == world.new.as_uri()
    assert {item.key: item.digest for item in manifest.source.objects} == {
        item.key: f"sha256:{item.sha256}" for item in manifest.objects
    }
    assert manifest.source.files == world.manifest.source.files


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "is missing"),
        ("unknown", "'of.nobody' is none of this rank's"),
        ("shape", "not torch.bfloat16 of"),
        ("pad", "that is pad, and no weight"),
        ("storage", "the storage is gone"),
    ],
)
def test_where_one_rank_cannot_save_nobody_publishes(
    tmp_path: Path, pair: Ranks, fault: str, message: str
) -> None:
    world = World(tmp_path, pair)
    (first, said), (last, why) = world.save(fault)
    assert message in why
    assert last == {"storage": 5}.get(fault, 2)
    assert (first, said.startswith("SavingFailed: rank 1 could not save its part: ")) == (7, True)
    assert not (world.new / MANIFEST_KEY).exists()


def test_a_layout_that_is_there_is_not_overwritten(tmp_path: Path, pair: Ranks) -> None:
    world = World(tmp_path, pair)
    world.save()
    before = (world.new / MANIFEST_KEY).read_bytes()
    (code, why), _ = world.save()
    assert (code, "holds a layout already" in why) == (2, True)
    assert (world.new / MANIFEST_KEY).read_bytes() == before
