"""``manifest.json``: what a layout holds and where, and by its presence that it is whole.

The manifest is written last, so a layout without one does not exist. Readers take its word for
keys, sizes and checksums and never list a store; so what it says is checked here, before any of
it is used (``layout/proof.py``): sizes, blocks, keys, and that every rank gets what it needs.
``docs/layout-format.md`` is the specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from shardedmodel_runtime.errors import LayoutError, LayoutNotFound, NotFound, excerpt
from shardedmodel_runtime.formats.companions import COMPANION_BYTES_LIMIT, is_companion
from shardedmodel_runtime.layout.placement import (
    PlacedTensor,
    numbers_in,
    place_tensors,
    writing_order,
)
from shardedmodel_runtime.layout.proof import check_manifest
from shardedmodel_runtime.naming import (
    LAYOUT_FORMAT,
    LAYOUT_FORMAT_VERSION,
    MANIFEST_KEY,
    SOURCE_FOLDER,
    is_layout_name,
)
from shardedmodel_runtime.parallelism import MAX_DEGREE, Parallelism, RankCoordinate
from shardedmodel_runtime.report import Wire
from shardedmodel_runtime.sharding.cuts import AxisCut, LocalPiece, TensorCut
from shardedmodel_runtime.sharding.rules import VOCAB_MULTIPLE, Rule
from shardedmodel_runtime.storage.base import ObjectStore
from shardedmodel_runtime.storage.uri import join_uri

BLOCK_BYTES = 16 * 1024 * 1024
"""Bytes under one checksum: what a rank reads in one request and can read again alone."""
BLOCK_ALGORITHM = "xxh3-128"
"""Guards against accidents at memory speed; the SHA-256 of an object is for signatures."""
MANIFEST_BYTES_LIMIT = 256 * 1024 * 1024
"""Largest manifest that is read: 1,000,000 tensors at some 100 bytes, and their checksums."""

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Block = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class ManifestSourceObject(Wire):
    """One object of the checkpoint that the layout was cut from."""

    key: Name
    bytes: Count
    digest: Name


class ManifestFile(Wire):
    """A small file of the checkpoint (configuration, tokenizer) that the layout keeps a copy of."""

    name: Name
    bytes: int = Field(ge=0, le=COMPANION_BYTES_LIMIT)
    sha256: Sha256

    @model_validator(mode="after")
    def _has_a_plain_name(self) -> Self:
        if not is_companion(self.name):
            raise ValueError(f"{excerpt(self.name)!r} is not the name of a file that layouts keep")
        return self

    @property
    def key(self) -> str:
        """Where it lies in the layout."""
        return f"{SOURCE_FOLDER}/{self.name}"


class ManifestSource(Wire):
    """The checkpoint that the layout was cut from."""

    uri: Name
    revision: str = ""
    model_type: str = ""
    objects: list[ManifestSourceObject]
    files: list[ManifestFile] = Field(default_factory=list)


class ManifestParallelism(Wire):
    """The degrees that the layout was cut for."""

    tensor: int = Field(ge=1, le=MAX_DEGREE)
    pipeline: int = Field(default=1, ge=1, le=MAX_DEGREE)
    expert: int = Field(default=1, ge=1, le=MAX_DEGREE)


class ManifestAxis(Wire):
    """One cut dimension of a tensor; its fields are those of ``AxisCut``."""

    over: Literal["tensor", "expert"]
    dim: Count
    ranges: list[list[tuple[Count, Count]]]
    pad: list[Count]


class ManifestCut(Wire):
    """How some tensors are cut, all alike; its fields are those of ``TensorCut``."""

    dtype: Name
    cast_from: Name | None = None
    shape: list[Count]
    strategy: Name
    axes: list[ManifestAxis]
    stages: list[Count] | None = None
    expert: Count | None = None
    added_once: bool = False

    @classmethod
    def of(cls, cut: TensorCut) -> ManifestCut:
        """As it stands in a manifest."""
        return cls(
            dtype=cut.dtype,
            cast_from=cut.cast_from,
            shape=list(cut.shape),
            strategy=cut.strategy,
            axes=[
                ManifestAxis(
                    over=axis.over,
                    dim=axis.dim,
                    ranges=[list(spans) for spans in axis.ranges],
                    pad=list(axis.pad),
                )
                for axis in cut.axes
            ],
            stages=None if cut.stages is None else list(cut.stages),
            expert=cut.expert,
            added_once=cut.added_once,
        )

    def to_cut(self) -> TensorCut:
        """As the rest of the runtime knows it."""
        axes = tuple(
            AxisCut(axis.over, axis.dim, tuple(map(tuple, axis.ranges)), tuple(axis.pad))
            for axis in self.axes
        )
        return TensorCut(
            self.dtype,
            tuple(self.shape),
            self.strategy,
            axes,
            self.cast_from,
            None if self.stages is None else tuple(self.stages),
            self.expert,
            self.added_once,
        )


class ManifestRule(Wire):
    """One of the user's rules; its fields are those of ``Rule``, which a plan checks by its use."""

    match: str
    strategy: str
    transposed: bool = False
    parts: list[str | int] = Field(default_factory=list)
    inner: str = ""
    uneven: Literal["refuse", "chunk"] = "refuse"
    multiple: int = VOCAB_MULTIPLE

    @classmethod
    def of(cls, rule: Rule) -> ManifestRule:
        """As it stands in a manifest."""
        return cls(**asdict(rule))

    def to_rule(self) -> Rule:
        """As the rest of the runtime knows it."""
        return Rule(**{**self.model_dump(), "parts": tuple(self.parts)})


class LayoutObject(Wire):
    """One safetensors object and what is in it; a rank needs those whose ``ranks`` hold it.

    ``tensors`` are runs ``[first, stop)`` of the manifest's tensors; they lie in the object by
    falling alignment of their dtype and, within one alignment, in the manifest's order.
    """

    key: Name
    ranks: Annotated[list[Count], Field(min_length=1)]
    bytes: Count
    sha256: Sha256
    blocks: list[Block]
    data_start: Count
    tensors: list[tuple[Count, Count]]


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


class Manifest(Wire):
    """The whole of ``manifest.json``."""

    format: Literal["shardedmodel.dev/layout"]
    version: Literal[2]
    layout_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
    created_by: Annotated[str, StringConstraints(max_length=128)] = ""
    source: ManifestSource
    parallelism: ManifestParallelism
    dtype: Literal["keep", "bfloat16", "float16", "float32"] = "keep"
    plan_digest: Name
    rules: list[ManifestRule] = Field(default_factory=list)
    block_bytes: int = Field(ge=4096, le=2**30)
    block_algorithm: Literal["xxh3-128"]
    cuts: list[ManifestCut]
    entries: list[tuple[Name, Count]] = Field(alias="tensors")
    objects: list[LayoutObject]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        check_manifest(self)
        return self

    @property
    def world_size(self) -> int:
        """Ranks of one group."""
        return self.degrees.world_size

    @cached_property
    def degrees(self) -> Parallelism:
        """The degrees as the rest of the runtime knows them."""
        return Parallelism(**self.parallelism.model_dump())

    @cached_property
    def user_rules(self) -> tuple[Rule, ...]:
        """The user's rules that it was cut with, before the built-in ones."""
        return tuple(rule.to_rule() for rule in self.rules)

    @cached_property
    def distinct_cuts(self) -> tuple[TensorCut, ...]:
        """The cuts that differ, by the number that ``entries`` give them."""
        return tuple(cut.to_cut() for cut in self.cuts)

    @cached_property
    def tensors(self) -> Mapping[str, TensorCut]:
        """How each tensor is cut, in the order of the source; equal cuts are one object."""
        cuts = self.distinct_cuts
        return {name: cuts[number] for name, number in self.entries}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tensors by their number."""
        return tuple(name for name, _ in self.entries)

    @cached_property
    def total_bytes(self) -> int:
        """Bytes of all objects, headers included."""
        return sum(layout_object.bytes for layout_object in self.objects)

    def objects_of(self, rank: int) -> list[LayoutObject]:
        """The objects that ``rank`` loads, its own before the common ones."""
        held = [item for item in self.objects if rank in item.ranks]
        return sorted(held, key=lambda item: len(item.ranks))

    def placed(self, item: LayoutObject) -> Iterator[PlacedTensor]:
        """Each piece in an object, in the order of bytes."""
        known = self.distinct_cuts
        held = (self.entries[number] for number in numbers_in(item.tensors))
        cuts = {name: known[number] for name, number in held}
        place = self.degrees.coordinate(item.ranks[0])
        ordered = ((name, cuts[name]) for name in writing_order(cuts))
        return place_tensors(ordered, place.tensor, place.expert)

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
            raise LayoutError(f"{where}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = excerpt(first["msg"].removeprefix("Value error, "))
    if field == "version":
        message = f"this release reads version {LAYOUT_FORMAT_VERSION} of {LAYOUT_FORMAT} only"
    others = error.error_count() - 1
    more = f" (and {others} more)" if others else ""
    return f"{excerpt(field)}: {message}{more}" if field else f"{message}{more}"


def read_manifest(store: ObjectStore) -> Manifest:
    """Read the manifest of the layout at the store's root.

    Raises:
        LayoutNotFound: there is none, hence no layout.
        LayoutError: it is there but cannot be used, or is that of another layout than the store
            is named after; a layout that was given a name of its own may be any.
    """
    where = join_uri(store.uri, MANIFEST_KEY)
    try:
        data = store.read(MANIFEST_KEY, limit=MANIFEST_BYTES_LIMIT)
    except NotFound as error:
        raise LayoutNotFound(
            f"{store.uri} holds no finished layout: {error.message}; "
            "make one with `shardedmodel shard`"
        ) from error
    manifest = Manifest.parse(data, where)
    name = store.uri.rpartition("/")[2]
    if is_layout_name(name) and name != manifest.layout_hash:
        raise LayoutError(
            f"{where}: is the manifest of another layout, {manifest.layout_hash}; "
            "delete it and pre-shard the model again"
        )
    return manifest


def block_spans(size: int, block_bytes: int) -> Sequence[tuple[int, int]]:
    """Half-open byte spans of an object's blocks, in order; the last may be shorter."""
    return [(start, min(start + block_bytes, size)) for start in range(0, size, block_bytes)]
