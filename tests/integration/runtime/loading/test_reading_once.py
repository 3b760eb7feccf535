"""What ranks of a real group ask a real store for, counted by a proxy between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.report import GroupReport
from tests.faultproxy import campaign
from tests.faultproxy.campaign import WORLD_SIZE, Bench
from tests.faultproxy.schedule import Plan
from tests.integration.runtime.loading.test_torchrun import torchrun
from tests.s3server import S3Server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bench(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("layouts")
    with campaign.bench(s3_server, folder, "reading-once") as bench:
        yield bench


def load(bench: Bench, *arguments: str) -> GroupReport:
    bench.proxy.use(Plan())
    command = ("load", bench.uri, "--endpoint-url", bench.proxy.endpoint_url, "--json")
    done = torchrun(
        WORLD_SIZE,
        *("-m", "shardedmodel_runtime", *command, *arguments),
        environment=bench.server.environment,
    )
    assert done.returncode == 0, done.stderr
    return GroupReport.model_validate_json(done.stdout)


def path_of(bench: Bench, key: str) -> str:
    return f"/{bench.uri.removeprefix('s3://')}/{key}"


def test_each_rank_reads_what_it_holds_and_rank_0_the_manifest_for_all(bench: Bench) -> None:
    load(bench)
    assert bench.proxy.asked[path_of(bench, MANIFEST_KEY)] == 1
    for item in bench.layout.manifest.objects:
        assert bench.proxy.sent[path_of(bench, item.key)] == len(item.ranks) * item.bytes


def test_ranks_that_share_read_what_both_hold_once_together(bench: Bench) -> None:
    group = load(bench, "--share-common")
    manifest = bench.layout.manifest
    for item in manifest.objects:
        assert bench.proxy.sent[path_of(bench, item.key)] == item.bytes
    assert [rank.bytes_done for rank in group.ranks] == [
        manifest.rank_bytes(rank) for rank in range(WORLD_SIZE)
    ]
    assert sum(rank.bytes_read for rank in group.ranks) == manifest.total_bytes
