"""Deleting a layout: at once for readers, and resumable for who deletes.

The manifest goes first, so that from then on the layout does not exist; what it said stays beside
it until everything else is gone, so that a deletion that is interrupted can be finished. Only
the folders that it names are looked into: nothing beside the layout can be touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from shardedmodel_runtime.errors import LayoutError, NotFound, excerpt
from shardedmodel_runtime.layout.manifest import MANIFEST_BYTES_LIMIT, Manifest
from shardedmodel_runtime.naming import MANIFEST_KEY, SOURCE_FOLDER
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.uri import join_uri

DELETED_KEY = "manifest.deleted.json"
"""What the manifest said, while its objects are being deleted."""
DELETE_THREADS = 8
"""Deletions side by side: a store answers each in some milliseconds."""


def delete_layout(store: ObjectStore) -> int:
    """Delete the layout at the store's root.

    Returns:
        How many objects were deleted; 0 when there was no layout, which is no error.

    Raises:
        LayoutError: what lies there is not the layout that its folder is named by.
        StorageError: the store refuses; to be run again.
    """
    data = _read(store, MANIFEST_KEY)
    begun = data if data is not None else _read(store, DELETED_KEY)
    if begun is None:
        return 0
    manifest = Manifest.parse(begun, join_uri(store.uri, MANIFEST_KEY))
    _require_own_folder(store, manifest)
    if data is not None:
        store.write(DELETED_KEY, data)
        store.delete(MANIFEST_KEY)
    keys = sorted({*(item.key for item in manifest.objects), *_found(store, manifest)})
    with ThreadPoolExecutor(DELETE_THREADS, thread_name_prefix="delete") as executor:
        list(executor.map(store.delete, keys))
    store.drop_unfinished()
    store.delete(DELETED_KEY)
    return len(keys) + 1


def _read(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.read(key, limit=MANIFEST_BYTES_LIMIT)
    except NotFound:
        return None


def _require_own_folder(store: ObjectStore, manifest: Manifest) -> None:
    folder = store.uri.rstrip("/").rpartition("/")[2]
    if folder != manifest.layout_hash:
        raise LayoutError(
            f"{store.uri}: the folder is not named {manifest.layout_hash}, as its manifest says; "
            f"nothing of {excerpt(folder)!r} is deleted"
        )


def _found(store: ObjectStore, manifest: Manifest) -> Iterator[str]:
    """Keys of what lies beside the objects: records of a Job that was killed, small files."""
    folders = {item.key.rpartition("/")[0] + "/" for item in manifest.objects if "/" in item.key}
    for folder in sorted(folders | {f"{SOURCE_FOLDER}/"}):
        try:
            found = store.list(folder)
        except NotFound:
            continue
        yield from (info.key for info in found)
