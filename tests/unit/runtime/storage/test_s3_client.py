"""What AWS's own settings make of a store, before any request."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardedmodel_runtime.errors import AccessDenied, ConfigurationError
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.options import Credentials, StoreOptions
from shardedmodel_runtime.storage.s3_certificates import certificates
from shardedmodel_runtime.storage.s3_client import new_session

VARIABLES = (
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
    *("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_DEFAULT_REGION"),
    *("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"),
)
OVER_TLS = StoreOptions("https://localhost:1", credentials=Credentials("key", "secret"))
PLAIN = StoreOptions("http://localhost:1", credentials=Credentials("key", "secret"))


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def opened(options: StoreOptions = OVER_TLS) -> None:
    open_store("s3://bucket/prefix", options).close()


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_a_profile_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "nope")
    with pytest.raises(ConfigurationError, match=f"^{name}: 'nope' is no profile"):
        opened()


def test_a_broken_file_of_settings_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("no section")
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(ConfigurationError, match=r"AWS's configuration: .*config"):
        opened()


def test_a_profile_with_half_of_a_pair_of_keys_is_no_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = key\n")
    with pytest.raises(AccessDenied, match="no complete credentials"):
        opened(StoreOptions("https://localhost:1"))


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_authorities_that_are_not_there_are_named_when_a_store_is_opened(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match=f"^{name}: '/nowhere/ca.pem' cannot be read"):
        opened()


def test_a_file_without_certificates_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigurationError, match=r"AWS_CA_BUNDLE: .*ca.pem' cannot be read"):
        opened()


def test_authorities_that_a_profile_names_are_told_by_the_profile(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nca_bundle = /nowhere/ca.pem\n")
    with pytest.raises(ConfigurationError, match=r"ca_bundle of the AWS profile: '/nowhere/"):
        opened()


def test_authorities_do_not_matter_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/ca.pem")
    opened(PLAIN)


def test_an_empty_name_of_authorities_does_not_end_the_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
    assert certificates(new_session(), "https://localhost:1") is True


@pytest.mark.parametrize("operation", ["read", "describe"])
def test_a_token_that_is_not_mounted_is_named_by_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, operation: str
) -> None:
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    arguments = {"limit": 1} if operation == "read" else {}
    with (
        open_store("s3://bucket", StoreOptions("http://localhost:1")) as store,
        pytest.raises(ConfigurationError, match=rf"file of AWS's credentials .*{tmp_path}/token"),
    ):
        getattr(store, operation)("key", **arguments)


def test_a_region_that_is_no_name_is_not_taken_for_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu west")
    with pytest.raises(ConfigurationError, match=r"AWS's configuration: .*'eu west'"):
        opened()


WRONG_PROXIES = (
    "http://user:pa#SECRET@proxy:3128",
    "http://user:pa/SECRET@proxy:3128",
    "http://user:SECRET@proxy:80x",
    "user:SECRET@proxy:99999",
    "socks5://user:SECRET@proxy:1080",
    "http://user:SECRET@[::1:3128",
)


@pytest.mark.parametrize("address", WRONG_PROXIES)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxy_that_is_no_address_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    monkeypatch.setenv(name, address)
    store = StoreOptions("https://store:1", credentials=Credentials("key", "secret"))
    with pytest.raises(ConfigurationError, match=f"^{name}: is no address of a proxy") as raised:
        opened(store)
    assert "SECRET" not in str(raised.value)
    assert "pa" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "proxy",
        "proxy:3128",
        "//proxy:3128",
        "http://proxy:3128/",
        "https://user:p%23ss@proxy.example:3128",
        "user:p@ss@127.0.0.1:3128",
        "http://[::1]:3128",
    ],
)
def test_a_proxy_is_any_address_that_botocore_takes(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    opened(StoreOptions("https://store:1", credentials=Credentials("key", "secret")))


def test_a_proxy_that_the_store_is_not_reached_through_may_be_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:x")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:x")
    monkeypatch.setenv("NO_PROXY", "store")
    opened(StoreOptions("https://store:1", credentials=Credentials("key", "secret")))
    monkeypatch.delenv("HTTPS_PROXY")
    opened(OVER_TLS)
