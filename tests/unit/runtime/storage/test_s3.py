"""The S3 store against a client that misbehaves on demand; the real server is in integration."""

from __future__ import annotations

import io
from typing import Any

import pytest
from botocore.session import get_session

from shardedmodel_runtime.errors import (
    AccessDenied,
    ConfigurationError,
    NotFound,
    SourceChanged,
    StorageError,
    Throttled,
    Unavailable,
)
from shardedmodel_runtime.storage import s3
from shardedmodel_runtime.storage.options import Credentials, StoreOptions
from shardedmodel_runtime.storage.reading import Cancelled, Reading
from shardedmodel_runtime.storage.s3_client import make_client
from tests.builders.s3 import CONTENT, Answer, Client, Ranges, beginning, make, part, read, refusal


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupted_range_goes_on_where_it_broke_off(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    broken, whole = part(10, 50, sent=15, fails=fails), part(25, 50)
    ranges = Ranges(broken, whole)
    store = make(monkeypatch, ranges=ranges)
    assert read(store, 10, 50) == CONTENT[10:50]
    assert [asked["Range"] for asked in ranges.asked] == ["bytes=10-49", "bytes=25-49"]
    assert (broken.closed, broken.released, whole.released) == (True, False, True)
    assert (store.bytes_read, store.requests, store.retries) == (40, 2, 1)


def test_the_answer_to_one_ranged_read_describes_the_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make(monkeypatch, Client(get_object=[beginning(10)]))
    info, data = store.read_head("key", 10)
    assert (info.size, info.digest, data) == (len(CONTENT), "etag:e", CONTENT[:10])
    assert store.requests == 1


def test_a_beginning_that_breaks_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(monkeypatch, Client(get_object=[beginning(10, sent=3), beginning(10)]))
    assert store.read_head("key", 10)[1] == CONTENT[:10]


def test_of_a_server_that_ignores_ranges_the_beginning_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = {"ContentLength": len(CONTENT), "ETag": '"e"', "Body": io.BytesIO(CONTENT)}
    info, data = make(monkeypatch, Client(get_object=[whole])).read_head("key", 10)
    assert (info.size, data) == (len(CONTENT), CONTENT[:10])


def test_an_empty_object_has_an_empty_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(
        get_object=[refusal(416, "InvalidRange")],
        head_object=[{"ContentLength": 0, "ETag": '"e"'}],
    )
    info, data = make(monkeypatch, client).read_head("key", 10)
    assert (info.size, data) == (0, b"")


def test_an_answer_whose_headers_broke_off_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """urllib3 drops what follows a malformed header, the object's length among it."""
    whole = {"ContentLength": 7, "ETag": '"e"'}
    store = make(monkeypatch, Client(head_object=[{"ETag": '"e"'}, whole]))
    assert store.describe("key").size == 7
    cut = {"ETag": '"e"', "Body": io.BytesIO()}
    with pytest.raises(Unavailable, match="does not tell the object's length"):
        make(monkeypatch, Client(get_object=[cut] * 3)).read_head("key", 10)


def test_a_refused_beginning_stays_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound):
        make(monkeypatch, Client(get_object=[refusal(404, "NoSuchKey")])).read_head("key", 10)


def test_a_range_that_never_comes_whole_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(monkeypatch, ranges=Ranges(*(part(0, 10, sent=0) for _ in range(3))))
    with pytest.raises(Unavailable, match="ended 10 bytes early"):
        read(store, 0, 10)


def test_a_server_that_ignores_ranges_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges(Answer(CONTENT, "no range"), Answer(CONTENT, "no range"))
    store = make(monkeypatch, ranges=ranges, attempts=2)
    with pytest.raises(Unavailable, match="bytes 10-19 asked for, no range received"):
        read(store, 10, 20)


def test_a_range_beyond_the_end_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(monkeypatch, ranges=Ranges(part(90, 100)))
    with pytest.raises(StorageError, match="ends at byte 100; bytes up to 110"):
        read(store, 90, 110)


def test_a_changed_object_is_noticed_where_the_server_ignores_if_match(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make(monkeypatch, ranges=Ranges(part(0, 10)))
    with pytest.raises(SourceChanged):
        read(store, 0, 10, digest="etag:other")


def test_slow_down_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges(Throttled("SlowDown"), part(0, 10))
    assert read(make(monkeypatch, ranges=ranges), 0, 10) == CONTENT[:10]


def test_a_digest_is_a_condition_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges(part(0, 10))
    read(make(monkeypatch, ranges=ranges), 0, 10, digest="etag:e")
    assert ranges.asked[0]["If-Match"] == '"e"'


@pytest.mark.parametrize("etag", ['W/"e"', ""])
def test_a_weak_or_missing_etag_is_no_condition(monkeypatch: pytest.MonkeyPatch, etag: str) -> None:
    broken, whole = part(0, 10, sent=4), part(4, 10)
    broken.etag = whole.etag = etag
    ranges = Ranges(broken, whole)
    read(make(monkeypatch, ranges=ranges), 0, 10, digest=f"etag:{etag.strip(chr(34))}")
    assert ["If-Match" in asked for asked in ranges.asked] == [False, False]


def test_a_read_that_was_ended_asks_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges(Unavailable("gone"), part(0, 10))
    reading = Reading(failed=lambda asked_at, error: reading.abandon())
    store = make(monkeypatch, ranges=ranges)
    with pytest.raises(Cancelled):
        store.read_range("key", 0, memoryview(bytearray(10)), reading=reading)
    assert len(ranges.asked) == 1


def test_a_read_that_was_ended_closes_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = part(0, 10)
    reading = Reading(opened=lambda digest: reading.abandon())
    store = make(monkeypatch, ranges=Ranges(answer))
    with pytest.raises(Cancelled):
        store.read_range("key", 0, memoryview(bytearray(10)), reading=reading)
    assert answer.closed


def test_the_memory_of_each_piece_is_told_once_its_bytes_are_on_their_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3, "SLICE_BYTES", 4)
    ranges = Ranges(part(0, 10))
    told: list[tuple[int, int]] = []
    reading = Reading(coming=lambda memory: told.append((len(ranges.asked), len(memory))))
    make(monkeypatch, ranges=ranges).read_range(
        "key", 0, memoryview(bytearray(10)), reading=reading
    )
    assert told == [(1, 4), (1, 4), (1, 2)]


def test_an_empty_range_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(monkeypatch, ranges=Ranges())
    assert read(store, 5, 5) == b""
    assert store.requests == 0


def test_a_small_object_that_is_large_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = part(0, 100)
    store = make(monkeypatch, ranges=Ranges(answer))
    with pytest.raises(StorageError, match="100 bytes; at most 50"):
        store.read("key", limit=50)
    assert answer.closed
    assert store.bytes_read == 0


def test_a_small_object_of_unknown_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = part(0, 10)
    answer.size = None
    with pytest.raises(StorageError, match="does not say its length"):
        make(monkeypatch, ranges=Ranges(answer)).read("key", limit=50)


def test_a_small_object_that_broke_off_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = part(0, 10, sent=4)
    broken.size = 10
    store = make(monkeypatch, ranges=Ranges(broken, part(0, 10)))
    assert store.read("key", limit=50) == CONTENT[:10]
    assert (store.requests, store.retries, store.bytes_read) == (2, 1, 14)


def test_all_pages_of_a_listing_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(key: str) -> dict[str, Any]:
        return {"Key": key, "Size": 1, "ETag": '"e"'}

    client = Client(
        list_objects_v2=[
            {
                "Contents": [entry("prefix/"), entry("prefix/a")],
                "IsTruncated": True,
                "NextContinuationToken": "t",
            },
            {"Contents": [entry("prefix/b")]},
        ]
    )
    assert [info.key for info in make(monkeypatch, client).list()] == ["a", "b"]
    assert client.calls[1][1]["ContinuationToken"] == "t"


def test_folders_are_the_prefixes_of_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(
        list_objects_v2=[
            {
                "CommonPrefixes": [{"Prefix": "prefix/a/"}],
                "IsTruncated": True,
                "NextContinuationToken": "t",
            },
            {"Contents": [], "CommonPrefixes": [{"Prefix": "prefix/b/"}]},
        ]
    )
    assert make(monkeypatch, client).folders() == ["a", "b"]


def test_unfinished_uploads_under_the_prefix_are_dropped_page_by_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = {"Uploads": [{"Key": "prefix/a", "UploadId": "1"}], "IsTruncated": True}
    markers = {"NextKeyMarker": "prefix/a", "NextUploadIdMarker": "1"}
    second = {
        "Uploads": [{"Key": "prefix/b", "UploadId": "2"}, {"Key": "other/c", "UploadId": "3"}]
    }
    client = Client(
        list_multipart_uploads=[first | markers, second],
        abort_multipart_upload=[{}, refusal(404, "NoSuchUpload")],
        list_parts=[refusal(404, "NoSuchUpload")],
    )
    make(monkeypatch, client).drop_unfinished()
    aborted = [a["UploadId"] for name, a in client.calls if name == "abort_multipart_upload"]
    assert aborted == ["1", "2"]


def test_a_store_that_lists_no_uploads_is_only_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(list_multipart_uploads=[refusal(403, "AccessDenied")])
    make(monkeypatch, client).drop_unfinished()
    assert "cannot be looked for" in caplog.text


def test_without_conditional_writes_absence_is_looked_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = refusal(501, "NotImplemented")
    there = Client(put_object=[refused], head_object=[{"ContentLength": 1, "ETag": '"e"'}])
    assert not make(monkeypatch, there).write("key", b"x", if_absent=True)
    absent = Client(put_object=[refused, {}], head_object=[refusal(404, "404")], head_bucket=[{}])
    assert make(monkeypatch, absent).write("key", b"x", if_absent=True)


def test_two_writers_of_one_key_at_once_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(
        put_object=[
            refusal(409, "ConditionalRequestConflict"),
            refusal(412, "PreconditionFailed"),
        ]
    )
    assert not make(monkeypatch, client).write("key", b"x", if_absent=True)


def test_a_bucket_that_may_not_be_described_may_still_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(monkeypatch, Client(head_bucket=[refusal(403, "403")])).require_root()


def test_a_missing_bucket_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(head_bucket=[refusal(404, "404")])
    with pytest.raises(NotFound, match=r"s3://bucket/prefix: the bucket does not exist"):
        make(monkeypatch, client).require_root()


def test_an_endpoint_that_only_the_client_refuses_is_refused_by_its_field() -> None:
    options = StoreOptions("http://-x-", credentials=Credentials("key", "secret"))
    with pytest.raises(ConfigurationError, match=r"endpointUrl: .*http://-x-"):
        make_client(get_session(), options, 30)


def test_no_endpoint_means_a_name_per_bucket_and_an_endpoint_paths() -> None:
    credentials = Credentials("key", "secret", "token")
    aws = make_client(
        get_session(), StoreOptions(region="eu-central-1", credentials=credentials), 30
    )
    own = make_client(
        get_session(), StoreOptions("http://localhost:1", credentials=credentials), 30
    )
    assert aws.meta.region_name == "eu-central-1"
    assert aws.meta.config.s3 == {"payload_signing_enabled": False}
    assert own.meta.config.s3 == {"payload_signing_enabled": False, "addressing_style": "path"}
    aws.close()
    own.close()


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired", "400"])
def test_a_request_that_expired_is_signed_anew_once(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    described = {"ContentLength": 5, "ETag": '"e"'}
    client = Client(head_object=[refusal(400, code), described])
    store = make(monkeypatch, client)
    assert store.describe("key").size == 5
    assert (len(client.calls), store.requests, store.retries) == (2, 2, 0)


def test_credentials_that_stay_expired_are_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(put_object=[refusal(400, "ExpiredToken")] * 2)
    with pytest.raises(AccessDenied, match="out of date"):
        make(monkeypatch, client).write("key", b"x")
