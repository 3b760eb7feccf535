"""The small files beside a checkpoint's weights: configuration, tokenizer.

A layout keeps copies of them under ``source/``, so that it can be cut anew for other ranks, or put
together again as a checkpoint that loads, when the original is out of reach.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from shardedmodel_runtime.errors import (
    AccessDenied,
    ChecksumMismatch,
    LayoutError,
    NotFound,
)
from shardedmodel_runtime.formats.companions import COMPANION_BYTES_LIMIT, is_companion
from shardedmodel_runtime.formats.hf import CONFIG_KEY
from shardedmodel_runtime.layout.manifest import Manifest
from shardedmodel_runtime.layout.manifest_content import ManifestFile
from shardedmodel_runtime.storage.base import ObjectStore, ReadableStore
from shardedmodel_runtime.storage.uri import join_uri

logger = logging.getLogger(__name__)


def copy_companions(source: ReadableStore, layout: ObjectStore) -> list[ManifestFile]:
    """Copy a checkpoint's small files into a layout; what is there already stays.

    Args:
        source: the checkpoint's folder.
        layout: the layout's folder.

    Returns:
        What the manifest says of them.

    Raises:
        StorageError: the source cannot be read or the layout not written.
    """
    return [_copy(source, layout, name) for name in _names(source)]


def read_companion(layout: ReadableStore, file: ManifestFile) -> bytes:
    """Read one of the files that a layout keeps.

    Raises:
        LayoutError: it is not there, or its size is not what the manifest says.
        ChecksumMismatch: its bytes are not.
        StorageError: the layout cannot be read.
    """
    where = join_uri(layout.uri, file.key)
    try:
        info, data = layout.read_head(file.key, file.bytes + 1)
    except NotFound as error:
        raise LayoutError(error.what) from error
    if info.size != file.bytes:
        raise LayoutError(f"{where} has {info.size} bytes, the manifest says {file.bytes}")
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ChecksumMismatch(f"{where}: SHA-256 differs from the manifest's")
    return data


def restore_companions(layout: ReadableStore, manifest: Manifest, folder: Path) -> list[str]:
    """Write the files that a layout keeps into a folder.

    Args:
        layout: the layout's folder.
        manifest: the layout's manifest.
        folder: where they go, under their own names.

    Returns:
        Their names.

    Raises:
        LayoutError: one is missing or not what the manifest says.
        StorageError: the layout cannot be read.
    """
    for file in manifest.source.files:
        (folder / file.name).write_bytes(read_companion(layout, file))
    return [file.name for file in manifest.source.files]


def _names(source: ReadableStore) -> list[str]:
    try:
        found = source.list()
    except AccessDenied:
        logger.warning("%s may not be listed: only %s is kept of it", source.uri, CONFIG_KEY)
        return [CONFIG_KEY]
    return [
        info.key for info in found if is_companion(info.key) and info.size <= COMPANION_BYTES_LIMIT
    ]


def _copy(source: ReadableStore, layout: ObjectStore, name: str) -> ManifestFile:
    data = source.read(name, limit=COMPANION_BYTES_LIMIT)
    file = _entry(name, data)
    if layout.write(file.key, data, if_absent=True):
        return file
    return _entry(name, layout.read(file.key, limit=COMPANION_BYTES_LIMIT))


def _entry(name: str, data: bytes) -> ManifestFile:
    return ManifestFile(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
