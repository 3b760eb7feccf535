"""One real S3 server for all of these tests, and a bucket of its own for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.opening import open_store
from shardedmodel_runtime.storage.options import Credentials, StoreOptions
from tests.s3server import S3Server, free_ports

_numbers = count()


@dataclass(frozen=True)
class Bucket:
    """A bucket on the server, and the ways to it."""

    server: S3Server
    client: Any
    name: str

    @property
    def uri(self) -> str:
        """Its address."""
        return f"s3://{self.name}"

    def options(self, access_key: str = "", secret_key: str = "") -> StoreOptions:
        """The server's endpoint with its own credentials, or with those given."""
        credentials = Credentials(
            access_key or self.server.access_key, secret_key or self.server.secret_key
        )
        return StoreOptions(self.server.endpoint_url, credentials=credentials)

    def open(self, uri: str) -> ObjectStore:
        """Open any store on the server."""
        return open_store(uri, self.options())

    def upload(self, folder: Path, prefix: str) -> str:
        """Put a folder's files, and those of its folders, under a prefix; gives the address."""
        for path in (path for path in folder.rglob("*") if path.is_file()):
            key = f"{prefix}/{path.relative_to(folder)}"
            self.client.upload_file(str(path), self.name, key)
        return f"{self.uri}/{prefix}"

    def keys(self, prefix: str = "") -> list[str]:
        """All keys under a prefix."""
        page = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix)
        return [item["Key"] for item in page.get("Contents", [])]

    def uploads(self) -> list[str]:
        """Keys of the multipart uploads that are under way."""
        page = self.client.list_multipart_uploads(Bucket=self.name)
        return [item["Key"] for item in page.get("Uploads", [])]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A SeaweedFS server with credentials."""
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[Bucket]:
    """An empty bucket."""
    with closing(s3_server.client()) as client:
        name = f"test-{next(_numbers)}"
        client.create_bucket(Bucket=name)
        yield Bucket(s3_server, client, name)


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    return free_ports(1)[0]
