"""Takes back what was made of a layout that turned out to be broken."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from shardedmodel_runtime.errors import LayoutError, NotFound, SourceChanged, StorageError
from shardedmodel_runtime.layout.objects import PlannedObject
from shardedmodel_runtime.layout.records import find_finished
from shardedmodel_runtime.layout.saver import CheckpointSaver
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.storage.base import ObjectStore

logger = logging.getLogger(__name__)

WITHDRAW_THREADS = 8
"""Objects side by side: two small requests for each."""


@contextmanager
def withdrawn_if_broken(saver: CheckpointSaver) -> Iterator[None]:
    """Delete the objects that the saver published without a record, where their source is broken.

    Not where it ended for another reason: others that write the same layout, from a source that
    is sound, write the same bytes, and may count on these.

    Raises:
        LayoutError: the source is broken, as it was said.
        SourceChanged: it was changed meanwhile, as it was said.
    """
    try:
        yield
    except (LayoutError, SourceChanged):
        try:
            _withdraw(saver.store, saver.unrecorded)
        except StorageError as error:
            logger.warning(
                "%s: objects of a broken source are left behind, without a manifest: %s; delete "
                "them with `shardedmodel delete-layout`",
                saver.store.uri,
                error,
            )
        raise


def _withdraw(store: ObjectStore, objects: Sequence[PlannedObject]) -> None:
    """Delete objects unless they are somebody else's by now, whose record or manifest says so."""

    def withdraw(planned: PlannedObject) -> None:
        if find_finished(store, planned) is None:
            store.delete(planned.key)

    if not objects or _is_there(store, MANIFEST_KEY):
        return
    with ThreadPoolExecutor(WITHDRAW_THREADS, thread_name_prefix="withdraw") as executor:
        list(executor.map(withdraw, objects))


def _is_there(store: ObjectStore, key: str) -> bool:
    try:
        store.describe(key)
    except NotFound:
        return False
    return True
