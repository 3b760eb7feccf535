from __future__ import annotations

import pytest

from shardedmodel_runtime.errors import AccessDenied, ConfigurationError
from shardedmodel_runtime.storage.options import Credentials, StoreOptions

BOTH = {
    "SOURCE_AWS_ACCESS_KEY_ID": "source-key",
    "SOURCE_AWS_SECRET_ACCESS_KEY": "source-secret",
    "AWS_ACCESS_KEY_ID": "plain-key",
    "AWS_SECRET_ACCESS_KEY": "plain-secret",
}


def test_prefixed_variables_are_the_credentials() -> None:
    options = StoreOptions.from_environment("SOURCE_", environ=BOTH)
    assert options.credentials == Credentials("source-key", "source-secret")


def test_a_session_token_is_taken_along() -> None:
    environ = BOTH | {"SOURCE_AWS_SESSION_TOKEN": "token"}
    options = StoreOptions.from_environment("SOURCE_", environ=environ)
    assert options.credentials == Credentials("source-key", "source-secret", "token")


def test_the_older_name_of_the_token_counts_too() -> None:
    environ = BOTH | {"SOURCE_AWS_SECURITY_TOKEN": "token"}
    options = StoreOptions.from_environment("SOURCE_", environ=environ)
    assert options.credentials == Credentials("source-key", "source-secret", "token")


def test_without_prefixed_variables_the_usual_chain_decides() -> None:
    assert StoreOptions.from_environment("STORAGE_", environ=BOTH).credentials is None


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ("STORAGE_AWS_ACCESS_KEY_ID", "STORAGE_AWS_SECRET_ACCESS_KEY"),
        ("STORAGE_AWS_SECRET_ACCESS_KEY", "STORAGE_AWS_ACCESS_KEY_ID"),
    ],
)
def test_half_a_key_pair_is_refused_by_the_name_of_the_other_half(
    present: str, missing: str
) -> None:
    with pytest.raises(AccessDenied, match=missing):
        StoreOptions.from_environment("STORAGE_", environ={present: "x"})


def test_credentials_do_not_show() -> None:
    options = StoreOptions.from_environment("SOURCE_", environ=BOTH)
    assert "secret" not in repr(options)


@pytest.mark.parametrize(
    "url",
    [
        *("nonsense", "s3.example.com:9000", "ftp://host", "http://", "https://[::1", "http://a b"),
        "http://127.0.0.1:65536",
    ],
)
def test_an_endpoint_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="endpointUrl"):
        StoreOptions(endpoint_url=url)


@pytest.mark.parametrize("region", ["not a region", "-eu", "eu-", "12", "a.b", "r" * 64])
def test_a_region_that_is_no_name_is_refused(region: str) -> None:
    with pytest.raises(ConfigurationError, match=r"region: .* is no region's name; use letters"):
        StoreOptions(region=region)


def test_an_endpoint_with_credentials_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        StoreOptions(endpoint_url="http://user:hush@host")
    assert "hush" not in caught.value.message
