"""Which layouts the bucket may hold when all is done, given what models had and what was told.

Layouts of ``retention: Retain`` stay for ever. Of ``retention: Delete`` there may be those that a
model has; those of former specs, which are never deleted by a change of a spec; and those of which
an Event says that they were kept or could not be deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from demo.checkpoints import Store
from tests.soak.state import Object, name_of

TOLD = ("LayoutKept", "LayoutNotDeleted")
"""Events of a model that went and left its layout."""


@dataclass
class History:
    """The layouts that each model had, by the uid of the model."""

    had: dict[str, list[str]] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    """The layout that each had when it was last seen; empty where it had none."""

    def look(self, models: Iterable[Object]) -> None:
        """Take in what the statuses say now."""
        for model in models:
            uid, layout = model["metadata"]["uid"], layout_of(model)
            had = self.had.setdefault(uid, [])
            if layout and layout not in had:
                had.append(layout)
            self.last[uid] = layout

    def former(self) -> set[str]:
        """Layouts that some model had and had no more when it went, or has no more now."""
        return {
            layout
            for uid, layouts in self.had.items()
            for layout in layouts
            if layout != self.last[uid]
        }


def layout_of(model: Object) -> str:
    """The layout that a model's status names; empty while there is none."""
    sharding = (model.get("status") or {}).get("sharding") or {}
    return str(sharding.get("layoutHash", ""))


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies below one layout's name in the bucket."""

    objects: int
    complete: bool
    """Whether its manifest is there."""


def read_folders(store: Store, prefix: str) -> dict[str, Folder]:
    """What lies in ``s3://shards/<prefix>``, by the name of the layout."""
    keys: dict[str, list[str]] = {}
    with closing(store.client()) as client:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket="shards", Prefix=f"{prefix}/"
        )
        for page in pages:
            for item in page.get("Contents", []):
                layout, _, rest = item["Key"].removeprefix(f"{prefix}/").partition("/")
                keys.setdefault(layout, []).append(rest)
    return {layout: Folder(len(own), "manifest.json" in own) for layout, own in keys.items()}


def missing(models: Iterable[Object], prefix: str, folders: Mapping[str, Folder]) -> Iterator[str]:
    """Findings about layouts that a model has by its status and that are not in the bucket."""
    for model in models:
        uri, layout = model["spec"]["storage"]["uri"], layout_of(model)
        if uri.endswith(f"/{prefix}") and layout and not _is_complete(folders.get(layout)):
            yield f"{name_of(model)}: layout {layout} is not in the bucket"


def _is_complete(folder: Folder | None) -> bool:
    return folder is not None and folder.complete


def unneeded(
    models: Iterable[Object],
    history: History,
    events: Iterable[Object],
    folders: Collection[str],
) -> Iterator[str]:
    """Findings about layouts of ``retention: Delete`` that nobody needs and nobody told of.

    Args:
        models: those that exist.
        history: what all models had.
        events: all Events of the namespace.
        folders: names of the layouts that are there.
    """
    told = " ".join(e.get("message") or "" for e in events if e.get("reason") in TOLD)
    known = {layout_of(model) for model in models} | history.former()
    for layout in sorted(folders):
        if layout not in known and layout not in told:
            yield f"layout {layout} is in the bucket, and nobody needs it"
