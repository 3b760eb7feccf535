"""Folders of a network file system, mounted for real: what a volume of several nodes most often is.

Layouts reach the mount through the server behind it, so that none of their bytes are in this
machine's page cache when they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.errors import Unavailable
from shardedmodel_runtime.layout.manifest import read_manifest
from shardedmodel_runtime.layout.verification import verify_layout
from shardedmodel_runtime.loading.config import ModelLoadConfig
from shardedmodel_runtime.loading.loader import DistributedCheckpointLoader, load
from shardedmodel_runtime.loading.shard import LoadedShard
from shardedmodel_runtime.storage.opening import open_store
from tests.builders.layout import make_checkpoint, shard
from tests.builders.rank_layout import Layout, raw, write_layout
from tests.integration.runtime.conftest import Bucket
from tests.network_folder import NetworkFolder

pytestmark = pytest.mark.integration


@pytest.fixture
def layout(bucket: Bucket, tmp_path: Path) -> Layout:
    """A layout, in a folder of this machine and on the server."""
    layout = write_layout(tmp_path / "local")
    bucket.upload(layout.folder, "layout")
    return layout


@pytest.fixture
def mounted(bucket: Bucket, tmp_path: Path) -> Iterator[Path]:
    """The bucket as a folder of the network."""
    with NetworkFolder(bucket.server, bucket.name, tmp_path) as folder:
        yield folder.path


def config(folder: Path, **options: Any) -> ModelLoadConfig:
    return ModelLoadConfig(layout=folder.as_uri(), world_size=2, device="cpu", **options)


def assert_exact(loaded: LoadedShard, layout: Layout) -> None:
    found = {name: raw(tensor) for name, tensor in loaded.state_dict.items()}
    assert found == {name: raw(t) for name, t in layout.expected[loaded.rank].items()}


def mapped_below(folder: Path) -> list[str]:
    """Files of a folder that this process has mapped (proc(5), ``/proc/[pid]/maps``)."""
    places = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    return [place[5] for place in places if len(place) == 6 and place[5].startswith(f"{folder}/")]


def test_a_layout_on_the_network_is_read_once_and_not_mapped(layout: Layout, mounted: Path) -> None:
    loaded = load(config(mounted / "layout"))
    assert_exact(loaded, layout)
    assert loaded.report.bytes_read == layout.manifest.rank_bytes(0)
    assert mapped_below(mounted) == []


def test_what_lies_on_the_network_below_a_folder_of_the_node_is_not_mapped(
    layout: Layout, mounted: Path
) -> None:
    """A rank's own object is on the network, the common one on the node."""
    own = layout.object_path(0).parent
    for file in own.iterdir():
        file.unlink()
    own.rmdir()
    own.symlink_to(mounted / "layout" / own.name)
    loaded = load(config(layout.folder))
    assert_exact(loaded, layout)
    assert mapped_below(mounted) == []
    assert len(mapped_below(layout.folder)) == 1


def test_a_manifest_on_a_server_that_stops_answering_is_waited_for_until_the_deadline(
    layout: Layout, mounted: Path, bucket: Bucket
) -> None:
    with bucket.server.paused(), pytest.raises(Unavailable, match="within"):
        load(config(mounted / "layout", deadline_seconds=1.0))


def test_a_server_that_stops_answering_ends_a_load_at_its_deadline(
    layout: Layout, mounted: Path, bucket: Bucket
) -> None:
    loader = DistributedCheckpointLoader(config(mounted / "layout", deadline_seconds=1.0))
    with bucket.server.paused(), pytest.raises(Unavailable, match="does not return"):
        loader.load(layout.manifest)


def test_a_cache_on_the_network_gives_each_rank_its_bytes(layout: Layout, mounted: Path) -> None:
    cached = config(layout.folder, cache=str(mounted / "cache"))
    for hits in (0, len(layout.manifest.objects_of(0))):
        loaded = load(cached)
        assert_exact(loaded, layout)
        assert (loaded.report.cache_hits, loaded.report.cache_error) == (hits, "")
    assert mapped_below(mounted) == []


def test_a_checkpoint_is_cut_into_a_folder_of_the_network(mounted: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    uri = shard(checkpoint.uri, (mounted / "layouts").as_uri(), 2)[2]
    with open_store(uri) as store:
        assert verify_layout(store, read_manifest(store)).problems == []
