"""The S3 store against a real server: what answers really look like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shardedmodel_runtime.errors import (
    AccessDenied,
    NotFound,
    SourceChanged,
    StorageError,
    Unavailable,
)
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.opening import StoreOptions, open_store
from shardedmodel_runtime.storage.options import Credentials
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.s3 import S3Store
from shardedmodel_runtime.storage.s3_clock import ServerClock
from shardedmodel_runtime.storage.uri import parse_uri
from tests.faultproxy.faults import Kind
from tests.faultproxy.proxy import Proxy
from tests.faultproxy.schedule import Plan
from tests.integration.runtime.conftest import Bucket

pytestmark = pytest.mark.integration

PART = 5 * 1024 * 1024


@pytest.fixture
def store(bucket: Bucket) -> ObjectStore:
    return bucket.open(f"{bucket.uri}/prefix")


def read_span(store: ObjectStore, key: str, start: int, size: int, digest: str = "") -> bytes:
    into = bytearray(size)
    store.read_range(key, start, memoryview(into), digest=digest or None)
    return bytes(into)


def test_what_was_written_is_read(store: ObjectStore) -> None:
    assert store.write("a/b.json", b"0123456789")
    assert store.read("a/b.json", limit=10) == b"0123456789"
    assert read_span(store, "a/b.json", 3, 4, store.describe("a/b.json").digest) == b"3456"
    assert store.bytes_read == 14


@pytest.mark.parametrize(("limit", "expected"), [(4, b"0123"), (99, b"0123456789")])
def test_a_beginning_comes_with_size_and_digest_in_one_request(
    store: ObjectStore, limit: int, expected: bytes
) -> None:
    store.write("a", b"0123456789")
    before = store.requests
    info, data = store.read_head("a", limit)
    assert store.requests == before + 1
    assert (info, data) == (store.describe("a"), expected)


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_machine_with_a_wrong_clock_goes_by_the_servers(bucket: Bucket, hours: int) -> None:
    clock = ServerClock(lambda: datetime.now(UTC) + timedelta(hours=hours))
    with S3Store(parse_uri(bucket.uri), bucket.options(), clock=clock) as store:
        assert store.write("a", b"01234")
        assert store.requests == 2
        assert store.describe("a").size == 5
        assert read_span(store, "a", 1, 3) == b"123"
        assert store.requests == 4


def test_a_head_request_tells_of_a_wrong_clock_by_its_date_alone(bucket: Bucket) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="a", Body=b"01234")
    clock = ServerClock(lambda: datetime.now(UTC) - timedelta(hours=2))
    with S3Store(parse_uri(bucket.uri), bucket.options(), clock=clock) as store:
        assert store.describe("a").size == 5


@pytest.fixture
def expiring(bucket: Bucket) -> Iterator[Proxy]:
    """The server, where each request's token has expired at the first attempt."""
    bucket.client.put_object(Bucket=bucket.name, Key="a", Body=b"01234")
    plan = Plan(kinds=(Kind.EXPIRED,), share=1.0, suffix="")
    with Proxy(bucket.server.endpoint_url, plan) as proxy:
        yield proxy


@pytest.fixture
def elsewhere(bucket: Bucket) -> Iterator[Proxy]:
    """The server, where the bucket is in another region than the one that is asked in."""
    bucket.client.put_object(Bucket=bucket.name, Key="a", Body=b"01234")
    plan = Plan(kinds=(Kind.OTHER_REGION,), share=1.0, burst=None, suffix="")
    with Proxy(bucket.server.endpoint_url, plan) as proxy:
        yield proxy


def behind(proxy: Proxy, bucket: Bucket) -> S3Store:
    options = replace(bucket.options(), endpoint_url=proxy.endpoint_url)
    return S3Store(parse_uri(bucket.uri), options)


every_way_to_read = pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.read("a", limit=5),
        lambda store: store.read_head("a", 5)[1],
        lambda store: b"01234" if store.list()[0].key == "a" else b"",
        lambda store: read_span(store, "a", 0, 5),
    ],
    ids=["GetObject", "its beginning", "ListObjects", "a range"],
)


@every_way_to_read
def test_a_bucket_is_followed_to_its_region_whatever_is_asked_for(
    bucket: Bucket, elsewhere: Proxy, ask: Callable[[ObjectStore], bytes]
) -> None:
    with behind(elsewhere, bucket) as store:
        assert ask(store) == b"01234"


def test_a_request_that_is_made_again_elsewhere_counts_twice(
    bucket: Bucket, elsewhere: Proxy
) -> None:
    with behind(elsewhere, bucket) as store:
        assert read_span(store, "a", 0, 5) == read_span(store, "a", 0, 5) == b"01234"
        assert store.requests == 3


@every_way_to_read
def test_a_token_that_expired_is_renewed_whatever_is_asked_for(
    bucket: Bucket, expiring: Proxy, ask: Callable[[ObjectStore], bytes]
) -> None:
    with behind(expiring, bucket) as store:
        assert ask(store) == b"01234"
    assert expiring.injected == {Kind.EXPIRED: 1}


def test_a_token_that_stays_expired_is_told(bucket: Bucket, expiring: Proxy) -> None:
    expiring.use(replace(expiring.plan, burst=None))
    with (
        behind(expiring, bucket) as store,
        pytest.raises(AccessDenied, match=r"out of date \(ExpiredToken"),
    ):
        store.read("a", limit=5)
    assert expiring.injected == {Kind.EXPIRED: 2}


def test_an_empty_object_has_an_empty_beginning(store: ObjectStore) -> None:
    store.write("a", b"")
    info, data = store.read_head("a", 10)
    assert (info.size, data) == (0, b"")


def test_what_is_there_stays_when_it_must_be_absent(store: ObjectStore) -> None:
    assert store.write("a", b"first", if_absent=True)
    assert not store.write("a", b"second", if_absent=True)
    assert store.read("a", limit=10) == b"first"


def test_a_replaced_object_is_refused(store: ObjectStore) -> None:
    store.write("a", b"first")
    digest = store.describe("a").digest
    store.write("a", b"other")
    with pytest.raises(SourceChanged):
        read_span(store, "a", 0, 5, digest)


def test_a_range_beyond_the_end_is_refused_with_the_size(store: ObjectStore) -> None:
    store.write("a", b"01234")
    with pytest.raises(StorageError, match="ends at byte 5; bytes up to 7"):
        read_span(store, "a", 3, 4)


def test_a_large_object_is_refused_where_a_small_one_belongs(store: ObjectStore) -> None:
    store.write("a", b"01234")
    with pytest.raises(StorageError, match="5 bytes; at most 4"):
        store.read("a", limit=4)


def test_parts_in_any_order_make_the_object(store: ObjectStore) -> None:
    parts = [bytes([number]) * PART for number in range(2)] + [b"end"]
    writer = store.open_writer("big", 2 * PART + 3, PART)
    for index in (2, 0, 1):
        writer.write_part(index, parts[index])
    writer.commit()
    assert store.describe("big").size == 2 * PART + 3
    assert read_span(store, "big", PART - 1, 2) == b"\0\1"


def test_an_aborted_upload_leaves_nothing(bucket: Bucket, store: ObjectStore) -> None:
    writer = store.open_writer("big", 2 * PART, PART)
    writer.write_part(0, bytes(PART))
    assert bucket.uploads() == ["prefix/big"]
    writer.abort()
    assert bucket.uploads() == []
    assert bucket.keys() == []


def test_a_folder_is_listed_without_its_folders(store: ObjectStore) -> None:
    for key in ("b", "a", "sub/c"):
        store.write(key, b"x")
    assert [info.key for info in store.list()] == ["a", "b"]
    assert [info.key for info in store.list("sub/")] == ["sub/c"]


def test_folders_are_named_without_files(store: ObjectStore) -> None:
    for key in ("b", "sub/c", "sub/deeper/d"):
        store.write(key, b"x")
    assert store.folders() == ["sub"]


def test_deleting_twice_is_fine(store: ObjectStore) -> None:
    store.write("a", b"x")
    store.delete("a")
    store.delete("a")
    with pytest.raises(NotFound):
        store.describe("a")


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    for ask in (lambda: store.describe("nope"), lambda: store.read("nope", limit=1)):
        with pytest.raises(NotFound, match="/prefix/nope: the object does not exist"):
            ask()


def test_a_missing_bucket_is_named(bucket: Bucket) -> None:
    with bucket.open("s3://no-such-bucket/prefix") as store:
        for ask in (
            lambda: store.describe("a"),
            lambda: store.read("a", limit=1),
            store.list,
            store.require_root,
        ):
            with pytest.raises(NotFound, match="the bucket does not exist"):
                ask()


@pytest.mark.parametrize(("access_key", "secret_key"), [("wrong", "wrong"), ("", "wrong")])
def test_wrong_credentials_are_told_and_never_shown(
    bucket: Bucket, access_key: str, secret_key: str
) -> None:
    with open_store(bucket.uri, bucket.options(access_key, secret_key)) as store:
        for ask in (
            lambda: store.describe("a"),
            lambda: store.read("a", limit=1),
            store.list,
            lambda: store.write("a", b"x"),
        ):
            with pytest.raises(AccessDenied) as caught:
                ask()
            assert "wrong" not in caught.value.message
            assert bucket.server.access_key not in caught.value.message


def test_a_server_that_is_not_there_is_unavailable(unused_port: int) -> None:
    options = StoreOptions(f"http://127.0.0.1:{unused_port}", credentials=Credentials("k", "s"))
    retry = RetryPolicy(attempts=2, sleep=lambda seconds: None)
    with (
        S3Store(parse_uri("s3://bucket"), options, retry) as store,
        pytest.raises(Unavailable, match=r"after 2 attempts"),
    ):
        store.describe("a")
