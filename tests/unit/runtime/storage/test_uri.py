from __future__ import annotations

import pytest

from shardedmodel_runtime.errors import ConfigurationError
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.options import Credentials, StoreOptions
from shardedmodel_runtime.storage.uri import StoreUri, join_uri, last_part, parse_uri


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("s3://bucket", StoreUri("s3", "bucket", "")),
        ("s3://bucket/", StoreUri("s3", "bucket", "")),
        ("s3://bucket/a/b/", StoreUri("s3", "bucket", "a/b")),
        ("file:///srv/models", StoreUri("file", "", "/srv/models")),
        ("file:///srv/models/", StoreUri("file", "", "/srv/models")),
    ],
)
def test_an_address_is_taken_apart(text: str, parsed: StoreUri) -> None:
    assert parse_uri(text) == parsed


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ftp://x", "unsupported scheme"),
        ("/srv/models", "unsupported scheme"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket/a/../b", "'..'"),
        ("s3://bucket/a//b", "empty"),
        ("file://srv", "not absolute"),
        ("file:///a/../b", "'..'"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        parse_uri(text)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_uri("s3://key:hush@bucket/prefix")
    assert "hush" not in caught.value.message


@pytest.mark.parametrize("text", ["s3://bucket", "s3://bucket/a", "file:///srv/models"])
def test_an_address_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_uri(text)) == text


def test_segments_are_appended() -> None:
    assert join_uri("s3://bucket/", "a", "b") == "s3://bucket/a/b"


@pytest.mark.parametrize("uri", ["s3://bucket/a/b", "s3://bucket/a/b/", "file:///b"])
def test_an_address_ends_in_a_name(uri: str) -> None:
    assert last_part(uri) == "b"


@pytest.mark.parametrize("uri", ["s3://bucket/a", "file:///srv/models"])
def test_a_store_is_opened_without_asking_anything_of_it(uri: str) -> None:
    options = StoreOptions(credentials=Credentials("key", "secret"))
    with open_store(uri, options) as store:
        assert (store.uri, store.requests) == (uri, 0)
