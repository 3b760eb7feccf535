"""One object on its way into S3."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from shardedmodel_runtime.errors import AccessDenied, NotFound, StorageError
from shardedmodel_runtime.storage.base import ObjectInfo

logger = logging.getLogger(__name__)

ABORT_ATTEMPTS = 5
"""How often an upload is aborted before it counts as one that stays."""
ABORT_SECONDS = 0.2
"""Between two attempts: long enough for parts that the server had begun to take in."""

Call = Callable[..., dict[str, Any]]
"""Makes a request (operation, key, arguments), repeated as needed."""


class S3Writer:
    """A single PUT, or a multipart upload where the object has several parts.

    The upload is begun with the first part, in the thread that brings it.

    Args:
        call: makes requests, with the store's errors and retries.
        key: relative to the store.
        size: bytes of the object.
        part_bytes: size of every part but the last.
        describe: asks what the store has under a key.
    """

    def __init__(
        self,
        call: Call,
        key: str,
        size: int,
        part_bytes: int,
        describe: Callable[[str], ObjectInfo],
    ) -> None:
        self.part_bytes = part_bytes
        self._call = call
        self._key = key
        self._size = size
        self._describe = describe
        self._tags: dict[int, str] = {}
        self._upload = ""
        self._aborted = False
        self._lock = threading.Lock()

    def write_part(self, index: int, data: bytes | bytearray) -> None:
        """Upload one part."""
        if self._size <= self.part_bytes:
            self._call("put_object", self._key, Body=data)
            return
        answer = self._call(
            "upload_part", self._key, UploadId=self._begun(), PartNumber=index + 1, Body=data
        )
        self._tags[index] = answer["ETag"]

    def commit(self) -> None:
        """Put the parts together."""
        if not self._upload:
            return
        parts = [{"PartNumber": i + 1, "ETag": tag} for i, tag in sorted(self._tags.items())]
        try:
            self._call(
                "complete_multipart_upload",
                self._key,
                UploadId=self._upload,
                MultipartUpload={"Parts": parts},
            )
        except NotFound:
            # The answer to an earlier attempt was lost after the server had done it.
            if self._describe(self._key).size != self._size:
                raise
        self._upload = ""

    def abort(self) -> None:
        """Drop the uploaded parts, which would be kept and charged for otherwise."""
        with self._lock:  # an upload that is being begun has an id before it can be dropped
            upload, self._upload = self._upload, ""
            self._aborted = True
        if not upload:
            return
        try:
            abort_upload(self._call, self._key, upload)
        except StorageError as error:
            logger.warning("multipart upload of %s is left behind: %s", self._key, error)

    def _begun(self) -> str:
        with self._lock:
            if self._aborted:
                raise StorageError(f"{self._key}: its upload was dropped")
            if not self._upload:
                answer = self._call("create_multipart_upload", self._key)
                self._upload = str(answer["UploadId"])
            return self._upload


def abort_upload(call: Call, key: str, upload: str) -> None:
    """Abort a multipart upload until it is gone.

    A part that the server was still taking in can outlive an abort (S3 API reference,
    "AbortMultipartUpload"), so it is asked whether there is something left.

    Raises:
        StorageError: the store refuses, or the upload is still there after some attempts.
    """
    for _ in range(ABORT_ATTEMPTS):
        try:
            call("abort_multipart_upload", key, UploadId=upload)
        except NotFound:
            return
        try:
            call("list_parts", key, UploadId=upload, MaxParts=1)
        except (NotFound, AccessDenied):  # who may abort need not be allowed to look
            return
        time.sleep(ABORT_SECONDS)
    raise StorageError(f"{key}: the upload is still there after {ABORT_ATTEMPTS} attempts")
