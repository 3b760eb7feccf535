"""A real S3 server for tests and benchmarks: SeaweedFS on loopback, in a folder of its own.

    with S3Server() as server, closing(server.client()) as client:
        client.create_bucket(Bucket="models")

``python -m tests.s3server FOLDER`` runs one by hand until interrupted.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

START_SECONDS = 60.0
"""Longest wait until the server answers; it takes 3 s when the machine is idle."""
STOP_SECONDS = 2.0
"""Between asking the server to end and ending it: it waits for idle connections, tests do not."""
VOLUME_MEGABYTES = 256
VOLUMES = 2000
"""The server makes seven volumes for each bucket, none of them preallocated: 2,000 are enough for
a bucket to each test."""


class S3Server:
    """Starts ``weed server -s3`` and stops it, by its own process id.

    Args:
        folder: where data go; a temporary one, removed at the end, where none is given.
    """

    access_key = "test-access-key"
    secret_key = "test-secret-key"

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="s3server-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []

    @property
    def endpoint_url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def filer(self) -> str:
        """Where its folders can be mounted from: address, port, and port of gRPC."""
        return f"127.0.0.1:{self._ports[6]}.{self._ports[7]}"

    @property
    def environment(self) -> dict[str, str]:
        """The credentials as variables of a process."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def client(self) -> Any:
        """Make a boto3 client with the server's credentials."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                connect_timeout=2,
                read_timeout=30,
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def start(self) -> None:
        """Start the server and wait until it stores objects; again after ``kill``, where it was.

        Raises:
            RuntimeError: it ended, or does not answer in time; with the end of its log.
        """
        self._ports = self._ports or free_ports(8)
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        (self.folder / "s3.json").write_text(self._configuration())
        with (self.folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(data), stdout=log, stderr=log, cwd=self.folder
            )
        self._wait_until_ready()

    def kill(self) -> None:
        """End the server's process as a fault would; its data stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop its process for a block of code: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the server's process and remove a temporary folder."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except RuntimeError:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _configuration(self) -> str:
        return json.dumps(
            {
                "identities": [
                    {
                        "name": "test",
                        "credentials": [
                            {"accessKey": self.access_key, "secretKey": self.secret_key}
                        ],
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                    }
                ]
            }
        )

    def _command(self, data: Path) -> list[str]:
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        return [
            weed(),
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            f"-master.volumeSizeLimitMB={VOLUME_MEGABYTES}",
            "-master.telemetry=false",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            f"-volume.max={VOLUMES}",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={self.folder / 'filer.sock'}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            # Servers of other protocols, on fixed ports: two S3 servers would collide on them.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={self.folder / 's3.json'}",
        ]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        with closing(self.client()) as client:
            while True:
                if self._process.poll() is not None:
                    code = self._process.returncode
                    raise RuntimeError(f"weed ended with {code}: {self._log_end()}")
                try:
                    # A bucket alone proves little: volumes are a moment later than the gateway.
                    with suppress(client.exceptions.BucketAlreadyOwnedByYou):  # after a kill
                        client.create_bucket(Bucket="ready")
                    client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                    return
                except (BotoCoreError, ClientError) as error:
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"weed: {error}; {self._log_end()}") from error
                time.sleep(0.1)

    def _log_end(self) -> str:
        return (self.folder / "weed.log").read_text(errors="replace")[-2000:]


def weed() -> str:
    """Give the environment's own binary, whether or not the environment is activated."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else "weed"


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens.

    They lie below the range that the kernel takes for outgoing connections (from 32768), so that
    none of those can take one before it is used.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            break
    return found


if __name__ == "__main__":
    with S3Server(Path(sys.argv[1])) as running:
        print(running.endpoint_url, running.access_key, running.secret_key, flush=True)
        while True:
            time.sleep(3600)
