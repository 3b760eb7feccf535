"""Finds a finished layout, so that nothing is made twice."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from shardedmodel_runtime.errors import LayoutError, LayoutNotFound, NotFound
from shardedmodel_runtime.layout.manifest import Manifest, read_manifest
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.sharding.plan import ShardingPlan
from shardedmodel_runtime.storage.base import ObjectStore

logger = logging.getLogger(__name__)

DESCRIBE_THREADS = 8
"""Objects of a found layout that are looked at side by side: latency is what is hidden."""


def find_layout(layout: ObjectStore, name: str, plan: ShardingPlan) -> Manifest | None:
    """Find the finished layout of this name, if there is one that can be used.

    A manifest that cannot be used (broken, or without its objects) is deleted, so that the
    layout is made anew.

    Raises:
        StorageError: the storage cannot be read.
    """
    try:
        manifest = read_manifest(layout)
        if (manifest.layout_hash, manifest.plan_digest) != (name, plan.digest()):
            raise LayoutError("its manifest is of another layout")
        _require_objects(layout, manifest)
    except LayoutNotFound:
        return None
    except LayoutError as error:
        logger.warning("%s is made anew: %s", layout.uri, error)
        layout.delete(MANIFEST_KEY)
        return None
    return manifest


def _require_objects(layout: ObjectStore, manifest: Manifest) -> None:
    def size(key: str) -> int:
        try:
            return layout.describe(key).size
        except NotFound as error:
            raise LayoutError(error.what) from error

    with ThreadPoolExecutor(DESCRIBE_THREADS, thread_name_prefix="describe") as executor:
        for item, found in zip(
            manifest.objects, executor.map(size, [o.key for o in manifest.objects]), strict=True
        ):
            if found != item.bytes:
                raise LayoutError(f"{item.key} has {found} bytes, not {item.bytes}")
