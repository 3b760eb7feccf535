"""``shardedmodel shard`` against the tests' S3 server, and what is seen of it there."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from shardedmodel_runtime.layout.records import record_key
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.report import ShardSummary
from tests.integration.runtime.conftest import Bucket

WAIT_SECONDS = 60.0
SERVER_SECONDS = 0.5
"""For the server to answer a small write, also on a machine that does other work."""


class Command:
    """``shardedmodel shard`` in a process of its own, as the Job's container runs it."""

    def __init__(self, bucket: Bucket, source: str, *flags: str, tensor: int = 1) -> None:
        command = [sys.executable, "-m", "shardedmodel_runtime", "shard", source]
        command += [f"{bucket.uri}/shards", "--tensor", str(tensor), "--json"]
        for side in ("source", "storage"):
            command += [f"--{side}-endpoint-url", bucket.server.endpoint_url]
        command += flags
        self.process = subprocess.Popen(
            command,
            env=os.environ | bucket.server.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait_until_uploading(self, bucket: Bucket) -> None:
        """Wait until parts of an object have been sent and others not."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not bucket.uploads():
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.01)

    def wait_until_finished(self, bucket: Bucket, objects: int) -> None:
        """Wait until so many objects have their records."""
        deadline = time.monotonic() + WAIT_SECONDS
        while len(records(bucket)) < objects:
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.01)

    def summary(self) -> ShardSummary:
        """Wait; gives the summary of a run that succeeds."""
        code, out, err = self.end()
        assert code == 0, err
        return ShardSummary.model_validate_json(out)

    def end(self) -> tuple[int, bytes, bytes]:
        """Wait; gives exit code and output."""
        out, err = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, out, err


def records(bucket: Bucket) -> list[str]:
    """Keys of the objects that have records: those that are finished, before the manifest is."""
    suffix = record_key("")
    keys = [key for key in bucket.keys("shards/") if key.endswith(suffix)]
    # What else ends so: the manifest, and the source's own small files.
    others = (MANIFEST_KEY, "source/config.json")
    return [key.removesuffix(suffix) for key in keys if not key.endswith(others)]


def records_at_rest(bucket: Bucket) -> list[str]:
    """Give the records once the server has taken what was on its way when a Job was killed."""
    found: list[str] = records(bucket)
    before: list[str] | None = None
    while found != before:
        time.sleep(SERVER_SECONDS)
        found, before = records(bucket), found
    return found
