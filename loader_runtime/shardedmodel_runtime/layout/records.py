"""Records: what is known of a finished object, beside it in the store.

A Job that is killed has finished objects behind it whose checksums died with it. So each object
gets a record when it is complete, ``<key>.json``, and the next Job believes it as long as the
object is still what the record says (size and ETag, or modification time). Once the manifest
says all of it, records are deleted.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Literal

from pydantic import ValidationError

from shardedmodel_runtime.errors import NotFound, StorageError
from shardedmodel_runtime.layout.manifest import BLOCK_BYTES
from shardedmodel_runtime.layout.manifest_content import Block, Count, LayoutObject, Name, Sha256
from shardedmodel_runtime.layout.objects import PlannedObject
from shardedmodel_runtime.report import Wire
from shardedmodel_runtime.storage.base import ObjectStore

logger = logging.getLogger(__name__)

RECORD_BYTES_LIMIT = 1024 * 1024
"""Largest record that is read: an object of 40 GiB has 2,560 blocks of 35 bytes each."""


class ObjectRecord(Wire):
    """One finished object.

    ``digest`` is the store's own for the object's state, ``header`` the SHA-256 of its
    safetensors header, which says that it holds the tensors that are planned.
    """

    version: Literal[1] = 1
    bytes: Count
    digest: Name
    header: Sha256
    sha256: Sha256
    blocks: list[Block]


def record_key(key: str) -> str:
    """Key of the record of the object at ``key``."""
    return f"{key}.json"


def leave_record(
    store: ObjectStore, planned: PlannedObject, sha256: str, blocks: list[str]
) -> None:
    """Write the record of an object that is complete.

    Raises:
        StorageError: the store does not have the object as it was written, or takes no record.
    """
    found = store.describe(planned.key)
    if found.size != planned.size:
        raise StorageError(
            f"{store.uri}/{planned.key} has {found.size} bytes after {planned.size} were written"
        )
    record = ObjectRecord(
        bytes=found.size,
        digest=found.digest,
        header=_header_digest(planned),
        sha256=sha256,
        blocks=blocks,
    )
    store.write(record_key(planned.key), record.to_json().encode())


def find_finished(store: ObjectStore, planned: PlannedObject) -> LayoutObject | None:
    """Find an object that an earlier Job, or another worker, has finished.

    Returns:
        What the manifest will say of it; None where it is missing, or not what its record says.

    Raises:
        StorageError: the store cannot be read.
    """
    key = record_key(planned.key)
    try:
        record = ObjectRecord.model_validate_json(store.read(key, limit=RECORD_BYTES_LIMIT))
        found = store.describe(planned.key)
    except NotFound:
        return None
    except ValidationError:
        logger.warning(
            "%s/%s is no record of this release; the object is made anew", store.uri, key
        )
        return None
    expected = (planned.size, found.digest, _header_digest(planned))
    blocks = -(-planned.size // BLOCK_BYTES)
    if (record.bytes, record.digest, record.header) != expected or found.size != planned.size:
        return None
    if len(record.blocks) != blocks:
        return None
    return layout_object(planned, record.sha256, record.blocks)


def layout_object(planned: PlannedObject, sha256: str, blocks: list[str]) -> LayoutObject:
    """Put together what the manifest says of an object."""
    return LayoutObject(
        key=planned.key,
        ranks=list(planned.ranks),
        bytes=planned.size,
        sha256=sha256,
        blocks=blocks,
        data_start=planned.data_start,
        tensors=list(planned.tensor_ranges),
    )


def _header_digest(planned: PlannedObject) -> str:
    return hashlib.sha256(planned.header).hexdigest()
