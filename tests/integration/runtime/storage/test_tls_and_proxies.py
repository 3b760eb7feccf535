"""Certificates and proxies are those of boto3, for ranges too, which go their own way."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from shardedmodel_runtime.errors import StorageError, Unavailable
from shardedmodel_runtime.storage.options import Credentials, StoreOptions
from shardedmodel_runtime.storage.retry import RetryPolicy
from shardedmodel_runtime.storage.s3 import S3Store
from shardedmodel_runtime.storage.uri import parse_uri
from tests.integration.runtime.conftest import Bucket
from tests.relays import Relay

pytestmark = pytest.mark.integration

VARIABLES = (
    *("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
    *("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"),
    *("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"),
)


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that nobody knows."""
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    """The file that makes it known."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def server(bucket: Bucket, authority: trustme.CA) -> Iterator[Relay]:
    """The S3 server, over TLS, as ``localhost``; its bucket holds an object."""
    bucket.client.put_object(Bucket=bucket.name, Key="key", Body=b"0123456789")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    plain = urlsplit(bucket.server.endpoint_url)
    with Relay((str(plain.hostname), int(plain.port or 0)), context) as relay:
        yield relay


def open_store(bucket: Bucket, server: Relay, host: str = "localhost") -> S3Store:
    credentials = Credentials(bucket.server.access_key, bucket.server.secret_key)
    options = StoreOptions(f"https://{host}:{server.port}", credentials=credentials)
    return S3Store(parse_uri(bucket.uri), options, RetryPolicy(attempts=2, base_seconds=0.01))


def read_size(store: S3Store) -> int:
    """By boto3, which has connections of its own."""
    return store.describe("key").size


def read_span(store: S3Store) -> bytes:
    into = bytearray(4)
    store.read_range("key", 3, memoryview(into))
    return bytes(into)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_server_whose_authority_is_made_known_is_read(
    bucket: Bucket, server: Relay, bundle: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, bundle)
    with open_store(bucket, server) as store:
        assert (read_size(store), read_span(store)) == (10, b"3456")
    assert len(server.targets) == 2


@pytest.mark.parametrize("read", [read_size, read_span])
def test_a_server_whose_authority_nobody_knows_is_refused_at_once(
    bucket: Bucket, server: Relay, read: object
) -> None:
    assert callable(read)
    with (
        open_store(bucket, server) as store,
        pytest.raises(StorageError, match=r"certificate.*AWS_CA_BUNDLE") as error,
    ):
        read(store)
    assert not isinstance(error.value, Unavailable)
    assert "X-Amz" not in error.value.message


@pytest.mark.parametrize("read", [read_size, read_span])
def test_a_certificate_for_another_name_is_refused(
    bucket: Bucket, server: Relay, bundle: str, read: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(read)
    monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
    with (
        open_store(bucket, server, "127.0.0.1") as store,
        pytest.raises(StorageError, match="certificate"),
    ):
        read(store)


def test_the_proxy_of_the_environment_is_gone_through(
    bucket: Bucket, server: Relay, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
    with Relay() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with open_store(bucket, server) as store:
            assert (read_size(store), read_span(store)) == (10, b"3456")
        assert proxy.targets == [("localhost", server.port)] * 2


def test_a_server_that_needs_no_proxy_is_reached_without(
    bucket: Bucket, server: Relay, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
    with Relay() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "localhost")
        with open_store(bucket, server) as store:
            assert (read_size(store), read_span(store)) == (10, b"3456")
        assert proxy.targets == []


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The environment's proxy for plain HTTP."""
    with Relay() as relay:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{relay.port}")
        yield relay


def read_plainly(bucket: Bucket) -> None:
    """Describe an object and read a part of it, from the server without TLS."""
    bucket.client.put_object(Bucket=bucket.name, Key="key", Body=b"0123456789")
    with S3Store(parse_uri(bucket.uri), bucket.options()) as store:
        assert (read_size(store), read_span(store)) == (10, b"3456")


def test_the_proxy_for_plain_http_is_gone_through(bucket: Bucket, proxy: Relay) -> None:
    read_plainly(bucket)
    server = urlsplit(bucket.server.endpoint_url)
    assert proxy.targets == [(server.hostname, server.port)] * 2


def test_a_proxy_for_tls_is_none_for_plain_http(
    bucket: Bucket, proxy: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("HTTP_PROXY")
    read_plainly(bucket)
    assert proxy.targets == []


@pytest.mark.parametrize("exempt", ["127.0.0.1", "localhost,127.0.0.1", "*"])
def test_a_plain_server_that_needs_no_proxy_is_reached_without(
    bucket: Bucket, proxy: Relay, exempt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", exempt)
    read_plainly(bucket)
    assert proxy.targets == []
