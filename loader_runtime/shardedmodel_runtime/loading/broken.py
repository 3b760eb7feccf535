"""Which error it is when the manifest names an object that the store does not have whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shardedmodel_runtime.errors import LayoutError, LayoutNotFound, NotFound, StorageError
from shardedmodel_runtime.naming import MANIFEST_KEY
from shardedmodel_runtime.storage.base import ObjectStore, TooShort


@contextmanager
def broken_where_objects_are_not_whole(store: ObjectStore) -> Iterator[None]:
    """Tell of what the manifest names and the store has not as of a layout that is broken.

    Where the manifest is not there either, nothing is broken: the layout is gone, or who read the
    manifest saw another folder than this rank, which has none mounted, say.

    Args:
        store: where the layout is.

    Raises:
        LayoutError: an object is missing, or shorter than the manifest says.
        LayoutNotFound: so is the manifest.
    """
    try:
        yield
    except (NotFound, TooShort) as error:
        what = error.what if isinstance(error, NotFound) else error.message
        if isinstance(error, NotFound) and not _has_manifest(store):
            raise LayoutNotFound(
                f"{what}; nor is the layout's {MANIFEST_KEY} there, as seen by this rank: "
                "see that it has the same volume or bucket as rank 0, and that nobody deleted it"
            ) from error
        raise LayoutError(
            f"{what}, and the manifest names it; delete the layout's {MANIFEST_KEY} and "
            "pre-shard the model again"
        ) from error


def _has_manifest(store: ObjectStore) -> bool:
    """Whether the layout is there; a store that does not say is taken to have it."""
    try:
        store.describe(MANIFEST_KEY)
    except NotFound:
        return False
    except StorageError:
        return True
    return True
