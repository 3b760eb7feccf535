"""One object on its way into S3."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from shardedmodel_runtime.errors import NotFound, StorageError
from shardedmodel_runtime.storage.base import ObjectInfo

logger = logging.getLogger(__name__)

Call = Callable[..., dict[str, Any]]
"""Makes a request (operation, key, arguments), repeated as needed."""


class S3Writer:
    """A single PUT, or a multipart upload where the object has several parts.

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
        if size > part_bytes:
            self._upload = str(call("create_multipart_upload", key)["UploadId"])

    def write_part(self, index: int, data: bytes | bytearray) -> None:
        """Upload one part."""
        if not self._upload:
            self._call("put_object", self._key, Body=data)
            return
        answer = self._call(
            "upload_part", self._key, UploadId=self._upload, PartNumber=index + 1, Body=data
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
        upload, self._upload = self._upload, ""
        if not upload:
            return
        try:
            self._call("abort_multipart_upload", self._key, UploadId=upload)
        except StorageError as error:
            logger.warning("multipart upload of %s is left behind: %s", self._key, error)
