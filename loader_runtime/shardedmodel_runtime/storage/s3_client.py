"""The boto3 client: its credentials, region and addresses are as boto3 finds them.

boto3's own retries are off: they repeat whole requests, where a ranged read resumes behind the
bytes that came. Payload checksums and signatures of its own are off as well where the protocol does
not ask for them: every block of a layout has a checksum that outlives the transfer, and a second
SHA-256 of every byte would take as long as the first.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    CredentialRetrievalError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.loaders import Loader, create_loader
from botocore.session import Session, get_session

from shardedmodel_runtime.errors import ConfigurationError, ShardedModelError, excerpt
from shardedmodel_runtime.storage.options import StoreOptions
from shardedmodel_runtime.storage.s3_certificates import certificates
from shardedmodel_runtime.storage.s3_errors import translate
from shardedmodel_runtime.storage.s3_ranges import CONNECT_TIMEOUT_SECONDS

CLIENT_CONNECTIONS = 64
"""Connections that are kept for all but ranges: a few times what is in flight of uploads, and of
small requests side by side, 16 at most."""
DEFAULT_REGION = "us-east-1"
"""What signatures name where nothing says a region; servers other than AWS do not mind."""

PROFILE_VARIABLES = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")
"""Which botocore looks at, in this order."""


def new_session() -> Session:
    """Begin a session of its own, which shares the descriptions of AWS's services with others.

    Raises:
        ConfigurationError: AWS's profile is not there, or its files cannot be read.
    """
    session = get_session()
    try:
        data_path = session.get_config_variable("data_path")
    except BotoCoreError as error:
        raise _misconfigured(error) from error
    session.register_component("data_loader", _descriptions(data_path))
    return session


@lru_cache
def _descriptions(data_path: str | None) -> Loader:
    """Give what parses them: once, since it takes longer than a hundred requests."""
    return create_loader(data_path)


def make_client(core: Session, options: StoreOptions, read_timeout_seconds: float) -> Any:
    """Make a boto3 client for S3 of ``options``, on a session of ``new_session``.

    Raises:
        ConfigurationError: the endpoint is no URL, or a setting of AWS's is wrong.
        AccessDenied: AWS's profile has half of a pair of keys.
        Unavailable: who gives credentials does not answer.
    """
    keys: dict[str, str] = {}
    if options.credentials is not None:
        keys = {
            "aws_access_key_id": options.credentials.access_key,
            "aws_secret_access_key": options.credentials.secret_key,
        }
        if options.credentials.session_token:
            keys["aws_session_token"] = options.credentials.session_token
    try:
        session = boto3.session.Session(
            region_name=options.region or None,
            botocore_session=core,
            **keys,
        )
        return session.client(
            "s3",
            endpoint_url=options.endpoint_url or None,
            region_name=session.region_name or DEFAULT_REGION,
            verify=certificates(core, options.endpoint_url),
            config=_client_config(options, read_timeout_seconds),
        )
    except (BotoCoreError, ValueError, OSError) as error:
        raise _misconfigured(error) from error


def _misconfigured(error: BotoCoreError | ValueError | OSError) -> ShardedModelError:
    """Make our error of what botocore says of its settings, before any request."""
    if str(error).startswith("Invalid endpoint"):  # a bare ValueError of botocore's
        return ConfigurationError(f"endpointUrl: {error}; use https://host[:port]")
    if isinstance(error, ProfileNotFound):
        name = next((name for name in PROFILE_VARIABLES if os.environ.get(name)), "AWS_PROFILE")
        return ConfigurationError(
            f"{name}: {excerpt(os.environ.get(name, ''))!r} is no profile of AWS's configuration; "
            "name one of ~/.aws/config (AWS_CONFIG_FILE), or unset it"
        )
    if isinstance(error, PartialCredentialsError | CredentialRetrievalError | OSError):
        return translate(error, "AWS's configuration")
    return ConfigurationError(
        f"AWS's configuration: {excerpt(str(error))}; correct it in ~/.aws (AWS_CONFIG_FILE) or "
        "in the variables AWS_*"
    )


def _client_config(options: StoreOptions, read_timeout_seconds: float) -> Config:
    # Servers other than AWS rarely have a DNS name per bucket.
    style = {"addressing_style": "path"} if options.endpoint_url else {}
    return Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=read_timeout_seconds,
        max_pool_connections=CLIENT_CONNECTIONS,
        retries={"total_max_attempts": 1},
        s3={"payload_signing_enabled": False, **style},
        signature_version="s3v4",  # of presigned URLs too, which were version 2 by default
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
