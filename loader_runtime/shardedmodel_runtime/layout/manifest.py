"""``manifest.json``: what a layout holds and where, and by its presence that it is whole.

The manifest is written last, so a layout without one does not exist. Readers take its word for
keys, sizes and checksums and never list a store; so what it says is checked here, before any of
it is used (``layout/proof.py``): sizes, blocks, keys, and that every rank gets what it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from pydantic import ValidationError, model_validator

from shardedmodel_runtime.errors import (
    LayoutError,
    LayoutNotFound,
    NotFound,
    Unavailable,
    excerpt,
    first_problem,
)
from shardedmodel_runtime.layout.manifest_content import LayoutObject, ManifestContent
from shardedmodel_runtime.layout.placement import (
    PlacedTensor,
    Placement,
    lay,
    numbers_in,
)
from shardedmodel_runtime.layout.proof import check_manifest
from shardedmodel_runtime.naming import (
    LAYOUT_FORMAT,
    LAYOUT_FORMAT_VERSION,
    MANIFEST_KEY,
    is_layout_name,
)
from shardedmodel_runtime.parallelism import RankCoordinate
from shardedmodel_runtime.sharding.cuts import LocalPiece, TensorCut
from shardedmodel_runtime.sharding.rules import Rule
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.uri import join_uri, last_part
from shardedmodel_runtime.storage.waiting import within

BLOCK_BYTES = 16 * 1024 * 1024
"""Bytes under one checksum: what a rank reads in one request and can read again alone."""
BLOCK_ALGORITHM = "xxh3-128"
"""Guards against accidents at memory speed; the SHA-256 of an object is for signatures."""
MANIFEST_BYTES_LIMIT = 256 * 1024 * 1024
"""Largest manifest that is read: 1,000,000 tensors at some 100 bytes, and their checksums."""


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """One piece of a tensor in an object of a layout.

    Args:
        key: of the object.
        place: the first of the ranks that load it.
        piece: what lies there of the tensor.
        start: its first byte, from the object's beginning.
    """

    key: str
    place: RankCoordinate
    piece: LocalPiece
    start: int


class Manifest(ManifestContent):
    """A layout that was proven whole."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        check_manifest(self)
        return self

    @cached_property
    def user_rules(self) -> tuple[Rule, ...]:
        """The user's rules that it was cut with, before the built-in ones."""
        return tuple(rule.to_rule() for rule in self.rules)

    @cached_property
    def tensors(self) -> Mapping[str, TensorCut]:
        """How each tensor is cut, in the order of the source; equal cuts are one object."""
        cuts = self.distinct_cuts
        return {name: cuts[number] for name, number in self.entries}

    @cached_property
    def total_bytes(self) -> int:
        """Bytes of all objects, headers included."""
        return sum(layout_object.bytes for layout_object in self.objects)

    def objects_of(self, rank: int) -> list[LayoutObject]:
        """The objects that ``rank`` loads, its own before the common ones."""
        held = [item for item in self.objects if rank in item.ranks]
        return sorted(held, key=lambda item: len(item.ranks))

    def placement(self, item: LayoutObject) -> Placement:
        """Where each piece lies in an object."""
        numbers = numbers_in(item.tensors)
        kinds = np.array([self.entries[number][1] for number in numbers.tolist()], np.int64)
        place = self.degrees.coordinate(item.ranks[0])
        return lay(numbers, kinds, self.distinct_cuts, place.tensor, place.expert)

    def placed(self, item: LayoutObject) -> Iterator[PlacedTensor]:
        """Each piece in an object, in the order of bytes."""
        laid = self.placement(item)
        columns = laid.numbers.tolist(), laid.kinds.tolist(), laid.starts.tolist()
        for number, kind, start in zip(*columns, strict=True):
            cut = self.distinct_cuts[kind]
            yield PlacedTensor(self.names[number], cut, laid.pieces[kind], start)

    @cached_property
    def copies(self) -> Mapping[str, Sequence[StoredPiece]]:
        """Where each tensor's pieces lie in the layout's objects, each piece once."""
        found: dict[str, list[StoredPiece]] = {name: [] for name in self.names}
        for item in self.objects:
            place = self.degrees.coordinate(item.ranks[0])
            for placed in self.placed(item):
                start = item.data_start + placed.start
                found[placed.name].append(StoredPiece(item.key, place, placed.piece, start))
        return found

    def rank_bytes(self, rank: int) -> int:
        """Bytes that ``rank`` loads."""
        return sum(layout_object.bytes for layout_object in self.objects_of(rank))

    def to_bytes(self) -> bytes:
        """Serialise as it stands in storage: without rules where there are none.

        Releases that know no rules of layouts then read those that were cut without any.
        """
        without = set() if self.rules else {"rules"}
        return self.model_dump_json(by_alias=True, exclude=without).encode()

    @classmethod
    def parse(cls, data: bytes, where: str = MANIFEST_KEY) -> Manifest:
        """Read and check the JSON text of a manifest.

        Args:
            data: the text, at most ``MANIFEST_BYTES_LIMIT`` bytes.
            where: how messages name it, usually its URI.

        Raises:
            LayoutError: it is no manifest, of another version, or contradicts itself.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise LayoutError(f"{where}: {_problem(error)}") from error


def _problem(error: ValidationError) -> str:
    for problem in error.errors(include_url=False):
        if problem["loc"] == ("version",):  # which explains all others
            return (
                f"version: {excerpt(repr(problem['input']), 80)}: this release reads version "
                f"{LAYOUT_FORMAT_VERSION} of {LAYOUT_FORMAT} only; pre-shard the model again"
            )
    field, message, _ = first_problem(error)
    others = error.error_count() - 1
    more = f" (and {others} more)" if others else ""
    return f"{f'{field}: ' if field else ''}{message}{more}; pre-shard the model again"


def read_manifest(store: ObjectStore, *, within_seconds: float | None = None) -> Manifest:
    """Read the manifest of the layout at the store's root.

    Args:
        store: where the layout is.
        within_seconds: how long to wait for a store that answers slowly, or byte by byte; None: as
            long as the store's own retries take. Checking what came is not cut short: it takes as
            long as the manifest is large, whatever the store does.

    Raises:
        Unavailable: it did not come in time, or the store kept failing.
        LayoutNotFound: there is none, hence no layout.
        LayoutError: it is there but cannot be used, or is that of another layout than the store
            is named after; a layout that was given a name of its own may be any.
    """
    where = join_uri(store.uri, MANIFEST_KEY)
    name = last_part(store.uri)
    try:
        data = _in_time(store, where, within_seconds)
    except NotFound as error:
        raise LayoutNotFound(
            f"{store.uri} holds no finished layout: {error.what}; {_instead_of(name)}"
        ) from error
    manifest = Manifest.parse(data, where)
    if is_layout_name(name) and name != manifest.layout_hash:
        raise LayoutError(
            f"{where}: is the manifest of another layout, {manifest.layout_hash}; "
            "delete it and pre-shard the model again"
        )
    return manifest


def _instead_of(name: str) -> str:
    """Say what to do where a folder of this name holds no layout."""
    if name == MANIFEST_KEY:
        return "name the folder that its manifest is in"
    if is_layout_name(name):
        return "make it with `shardedmodel shard`"
    return "name the layout's own folder, as `shardedmodel shard` shows it, or make one with that"


def _in_time(store: ObjectStore, where: str, seconds: float | None) -> bytes:
    def late() -> Unavailable:
        why = store.last_failure or "raise deadline_seconds or look at the store's speed"
        left = f"the {round(seconds or 0.0, 2):g} s that its deadline left"
        return Unavailable(f"{where}: did not come within {left}; {why}")

    return within(seconds, lambda: store.read(MANIFEST_KEY, limit=MANIFEST_BYTES_LIMIT), late)


def block_spans(size: int, block_bytes: int) -> Sequence[tuple[int, int]]:
    """Half-open byte spans of an object's blocks, in order; the last may be shorter."""
    return [(start, min(start + block_bytes, size)) for start in range(0, size, block_bytes)]
