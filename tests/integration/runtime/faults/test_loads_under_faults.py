"""A thousand faults between a loader and a real S3 server, by a seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardedmodel_runtime.loading.shard import LoadedShard
from tests.faultproxy import campaign
from tests.faultproxy.campaign import PASSING, STALLS, Bench, Tally
from tests.faultproxy.faults import Kind
from tests.faultproxy.messages import Request
from tests.faultproxy.schedule import Plan
from tests.s3server import S3Server

pytestmark = pytest.mark.integration

FAULTS_OF_A_KIND = 80
SIGNED = ("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token")
"""What a presigned URL holds that nobody else may have."""

LONG_SECONDS = 25.0
"""Patience with a stalled connection that only a second request is shorter than: the proxy keeps it
for 30 s, and the load's deadline is as long."""


@pytest.fixture(scope="module")
def bench(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with campaign.bench(s3_server, tmp_path_factory.mktemp("layouts")) as bench:
        yield bench


@pytest.fixture(scope="module")
def tallies(bench: Bench) -> dict[Kind, Tally]:
    """What became of the faults; every load was checked for wrong bytes, hangs and bare errors."""
    return campaign.run(bench, FAULTS_OF_A_KIND)


def test_a_thousand_faults_of_more_than_ten_kinds_were_met(tallies: dict[Kind, Tally]) -> None:
    assert sum(tally.injected for tally in tallies.values()) >= 1000
    assert all(tally.injected for tally in tallies.values())
    assert len(tallies) > 10


@pytest.mark.parametrize("kind", PASSING)
def test_a_load_recovers_from_faults_that_pass(tallies: dict[Kind, Tally], kind: Kind) -> None:
    assert tallies[kind].errors == {}


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        (Kind.REPLACED, {"ChecksumMismatch", "SourceChanged"}),
        (Kind.OTHER_MANIFEST, {"LayoutError"}),
    ],
)
def test_what_lies_wrong_in_the_store_is_never_loaded(
    tallies: dict[Kind, Tally], kind: Kind, reasons: set[str]
) -> None:
    tally = tallies[kind]
    assert tally.errors.keys() <= reasons
    assert tally.errors.total() == tally.loads


def test_a_load_goes_by_the_clock_of_the_store(tallies: dict[Kind, Tally]) -> None:
    assert tallies[Kind.CLOCK_SKEW].errors == {}


def test_a_load_follows_its_bucket_to_another_region(tallies: dict[Kind, Tally]) -> None:
    assert tallies[Kind.OTHER_REGION].errors == {}


def test_credentials_that_expired_are_renewed(tallies: dict[Kind, Tally]) -> None:
    assert tallies[Kind.EXPIRED].errors == {}


def test_credentials_that_stay_expired_are_told(bench: Bench) -> None:
    plan = Plan(seed=1, kinds=(Kind.EXPIRED,), share=1.0, burst=None)
    assert bench.load(plan, rank=0) == "AccessDenied"


@pytest.mark.parametrize(
    "kind",
    [
        Kind.FLIPPED_BIT,
        Kind.OTHER_BYTES,
        Kind.RESET_AT_ONCE,
        Kind.ERROR_500,
        Kind.SLOW_DOWN,
        Kind.WRONG_RANGE,
        Kind.RANGE_IGNORED,
        Kind.GARBAGE,
    ],
)
def test_a_fault_that_never_passes_ends_in_one_named_error(bench: Bench, kind: Kind) -> None:
    reason = bench.load(Plan(seed=1, kinds=(kind,), share=1.0, burst=None), rank=0)
    assert reason in {"ChecksumMismatch", "Unavailable", "Throttled"}


@pytest.mark.parametrize("kind", [Kind.SHORT_BODY, Kind.EARLY_CLOSE])
def test_answers_that_always_break_off_are_resumed_where_they_ended(
    bench: Bench, kind: Kind
) -> None:
    assert bench.load(Plan(seed=1, kinds=(kind,), share=0.1, burst=None), rank=0) == ""


def test_faults_of_all_kinds_at_once_and_twice_in_a_row_are_recovered(bench: Bench) -> None:
    kinds = tuple(kind for kind in PASSING if kind not in STALLS)
    assert bench.load(Plan(seed=3, kinds=kinds, share=0.4, burst=2), rank=1) == ""
    assert len(bench.proxy.injected) > 10


def test_a_malformed_header_is_logged_without_the_signature(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.load(Plan(seed=1, kinds=(Kind.MALFORMED_HEADER,), share=1.0), rank=0)
    assert "Failed to parse headers" in caplog.text
    assert not any(word in caplog.text for word in SIGNED)


class OneStall(Plan):
    """The first answer about the beginning of an object stalls, and nothing else."""

    def fault(self, request: Request, occurrence: int) -> Kind | None:
        first = request.head.get("Range").startswith("bytes=0-")
        return super().fault(request, occurrence) if first else None


def test_a_range_that_stalls_is_overtaken_by_a_second_request(bench: Bench) -> None:
    key = bench.layout.manifest.objects_of(0)[0].key
    plan = OneStall(kinds=(Kind.STALL,), share=1.0, suffix=key)
    ended = bench.ended(plan, rank=0, read_timeout_seconds=LONG_SECONDS)
    assert isinstance(ended, LoadedShard)
    assert bench.proxy.injected == {Kind.STALL: 1}
    assert ended.report.hedges == 1
