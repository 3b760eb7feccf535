"""Deleting a layout: at once for readers, and resumable for who deletes.

The manifest goes first, so that from then on the layout does not exist; what it said stays beside
it until everything else is gone, so that a deletion that is interrupted can be finished. Only
the folders that it names are looked into: nothing beside the layout can be touched.

A layout without a manifest is one that a Job began and did not finish. Of its folder, whose name
is a layout's, goes what has the names of a layout's objects; so it does where the manifest is
broken.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from shardedmodel_runtime.errors import LayoutError, NotFound, excerpt
from shardedmodel_runtime.layout.manifest import MANIFEST_BYTES_LIMIT, Manifest
from shardedmodel_runtime.naming import (
    MANIFEST_KEY,
    SOURCE_FOLDER,
    is_layout_key,
    is_layout_name,
)
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.uri import join_uri, last_part

DELETED_KEY = "manifest.deleted.json"
"""What the manifest said, while its objects are being deleted."""
DELETE_THREADS = 8
"""Deletions side by side: a store answers each in some milliseconds."""


def delete_layout(store: ObjectStore) -> int:
    """Delete the layout at the store's root, finished or not.

    Returns:
        How many objects were deleted; 0 when there was no layout, which is no error.

    Raises:
        LayoutError: what lies there is not the layout that its folder is named by.
        StorageError: the store refuses; to be run again.
    """
    data = _read(store, MANIFEST_KEY)
    begun = data if data is not None else _read(store, DELETED_KEY)
    if begun is None:
        return _delete_unfinished(store)
    try:
        manifest = Manifest.parse(begun, join_uri(store.uri, MANIFEST_KEY))
    except LayoutError:
        if not is_layout_name(last_part(store.uri)):
            raise
        return _delete_unreadable(store)
    _require_own_folder(store, manifest)
    if data is not None:
        store.write(DELETED_KEY, data)
        store.delete(MANIFEST_KEY)
    folders = {item.key.rpartition("/")[0] for item in manifest.objects if "/" in item.key}
    found = _found(store, {*folders, SOURCE_FOLDER})
    keys = {*(item.key for item in manifest.objects), *found}
    _delete_all(store, keys)
    store.delete(DELETED_KEY)
    return len(keys) + 1


def _delete_unreadable(store: ObjectStore) -> int:
    """Delete what a broken manifest, or a later release's, cannot or need not tell.

    The folder has a layout's name, and what goes has the names of a layout's objects.
    """
    for key in (MANIFEST_KEY, DELETED_KEY):
        store.delete(key)
    return 1 + _delete_unfinished(store)


def _delete_unfinished(store: ObjectStore) -> int:
    if not is_layout_name(last_part(store.uri)):
        return 0
    keys = {key for key in _found(store, store.folders()) if is_layout_key(key)}
    _delete_all(store, keys)
    return len(keys)


def _delete_all(store: ObjectStore, keys: Collection[str]) -> None:
    with ThreadPoolExecutor(DELETE_THREADS, thread_name_prefix="delete") as executor:
        list(executor.map(store.delete, sorted(keys)))
    store.drop_unfinished()


def _read(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.read(key, limit=MANIFEST_BYTES_LIMIT)
    except NotFound:
        return None


def _require_own_folder(store: ObjectStore, manifest: Manifest) -> None:
    folder = last_part(store.uri)
    if folder != manifest.layout_hash:
        raise LayoutError(
            f"{store.uri}: the folder is not named {manifest.layout_hash}, as its manifest says; "
            f"nothing of {excerpt(folder)!r} is deleted. Remove what has a name of its own, "
            "such as what ranks saved, with the tools of its store"
        )


def _found(store: ObjectStore, folders: Iterable[str]) -> Iterator[str]:
    """Keys of all that lies there: objects, records of a Job that was killed, small files."""
    for folder in sorted(folders):
        try:
            found = store.list(f"{folder}/")
        except NotFound:
            continue
        yield from (info.key for info in found)
