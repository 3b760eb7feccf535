"""A real network file system for tests: a bucket of the S3 server, mounted through FUSE.

Needs root and ``/dev/fuse``, and makes no other mount than its own.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.s3server import S3Server, weed

MOUNT_SECONDS = 30.0
"""Longest wait for the mount; it takes a tenth of a second when the machine is idle."""


class NetworkFolder:
    """Mounts a bucket as a folder, and takes the mount away again.

    Args:
        server: serves the bucket; it may end before the mount does.
        bucket: which is there already.
        folder: an empty one, below which also the mount's own files lie.
    """

    def __init__(self, server: S3Server, bucket: str, folder: Path) -> None:
        self.path = folder / "mounted"
        self._server = server
        self._bucket = bucket
        self._cache = folder / "of-mount"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Mount.

        Raises:
            RuntimeError: there is no mount in time; with what the process said.
        """
        self.path.mkdir()
        self._cache.mkdir()
        with (self._cache / "log").open("wb") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        deadline = time.monotonic() + MOUNT_SECONDS
        while not self.path.is_mount():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise RuntimeError(f"no mount: {(self._cache / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Lazily: a thread of a load that failed may still wait for an answer of the server's.
        subprocess.run(["umount", "--lazy", self.path], check=False)
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _command(self) -> list[str]:
        return [
            weed(),
            "mount",
            f"-filer={self._server.filer}",
            f"-filer.path=/buckets/{self._bucket}",
            f"-dir={self.path}",
            f"-cacheDir={self._cache}",
        ]
